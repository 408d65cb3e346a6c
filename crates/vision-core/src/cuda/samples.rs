//! Gradients of maps that were sampled between pixels: what samples add to the pixels around them, in a fixed order.
//!
//! The samples are sorted by the cell between pixels that they lie in; each pixel then collects from its four cells.

use candle_core::{CudaDevice, CudaStorage, DType};

use super::{Arg, Kernels, MOST_ELEMENTS, Work, count, empty, nothing, ptx, read_all, write};
use crate::error::{Error, Result};

const KERNELS: Kernels = Kernels { name: "samples", ptx: ptx::SAMPLES };

/// Samples that a block sorts, `TILE` of the kernel file.
const TILE: usize = 1024;
/// A digit has 16 values.
const BITS: u32 = 4;

/// Maps and the samples taken of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples {
    /// Number of maps.
    pub(crate) images: usize,
    /// Rows and columns of a map.
    pub(crate) size: [usize; 2],
    /// Channels of a map.
    pub(crate) channels: usize,
    /// Groups of channels with samples of their own; sample `s` is of group `s % shared`.
    pub(crate) shared: usize,
    /// Channels of a matrix of values.
    pub(crate) group_in: usize,
    /// Number of samples, those of all groups.
    pub(crate) number: usize,
    /// Samples of a group that follow each other and take the same row of values.
    pub(crate) each: usize,
}

/// For each sample its cell (`Corners::cell` of `corners.cuh`) and the weights of its four pixels.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) cells: CudaStorage,
    pub(crate) weights: CudaStorage,
}

impl Samples {
    /// Number of cells, which also stands for no cell at all.
    pub(crate) fn cells(&self) -> Result<usize> {
        [self.shared, self.size[0] + 1, self.size[1] + 1]
            .into_iter()
            .try_fold(self.images, usize::checked_mul)
            .filter(|&cells| cells < MOST_ELEMENTS)
            .ok_or_else(|| {
                Error::argument("samples on a CUDA device", "the maps have more than 2^31 - 2 cells")
            })
    }

    /// Room for [`Places`], to be written by a kernel.
    pub(crate) fn places(&self, device: &CudaDevice, dtype: DType) -> Result<Places> {
        let weights = empty(device, dtype, 4 * self.number)?;
        Ok(Places { cells: empty(device, DType::U32, self.number)?, weights })
    }

    /// Writes every element of the maps `out`: the sum of the samples' `values` times weights.
    pub(crate) fn add_up(
        &self,
        device: &CudaDevice,
        dtype: DType,
        values: Arg<'_>,
        places: Places,
        out: Arg<'_>,
    ) -> Result<()> {
        let len = self.images * self.size[0] * self.size[1] * self.channels;
        if len == 0 {
            return Ok(());
        }
        let Places { cells, weights } = places;
        let (order, starts) = self.sort(device, cells)?;
        let args = [
            values,
            read_all("samples: weights", &weights)?,
            read_all("samples: order", &order)?,
            read_all("samples: starts", &starts)?,
            out,
            count(self.size[0]),
            count(self.size[1]),
            count(self.channels),
            count(self.shared),
            count(self.group_in),
            count(self.number / self.shared / self.each),
            count(self.each),
            count(len),
        ];
        KERNELS.launch(device, "samples_gather", dtype, Work::Elements(len), args)
    }

    /// The samples in the order of their cells, and where those of each cell start.
    fn sort(&self, device: &CudaDevice, mut keys: CudaStorage) -> Result<(CudaStorage, CudaStorage)> {
        let (samples, cells, tiles) = (self.number, self.cells()?, self.number.div_ceil(TILE));
        let numbers = |len: usize| empty(device, DType::U32, len);
        // The kernels that sort are the same for both types.
        let any = DType::F32;
        let (mut order, mut keys_out, mut order_out) =
            (numbers(samples)?, numbers(samples)?, numbers(samples)?);
        let mut counts = numbers((1 << BITS) * tiles)?;
        let digits = (usize::BITS - cells.leading_zeros()).div_ceil(BITS).max(1);
        for digit in 0..digits {
            let shift = || Arg::Count(digit * BITS);
            let from = if digit == 0 { nothing() } else { read_all("samples: order", &order)? };
            KERNELS.launch(
                device,
                "samples_count",
                any,
                Work::Blocks(tiles),
                [
                    read_all("samples: cells", &keys)?,
                    write("samples: counts", &mut counts)?,
                    shift(),
                    count(samples),
                ],
            )?;
            let all = (1 << BITS) * tiles;
            KERNELS.launch(
                device,
                "samples_scan",
                any,
                Work::Blocks(1),
                [write("samples: counts", &mut counts)?, count(all)],
            )?;
            KERNELS.launch(
                device,
                "samples_scatter",
                any,
                Work::Blocks(tiles),
                [
                    read_all("samples: cells", &keys)?,
                    from,
                    read_all("samples: counts", &counts)?,
                    write("samples: cells", &mut keys_out)?,
                    write("samples: order", &mut order_out)?,
                    shift(),
                    count(samples),
                ],
            )?;
            std::mem::swap(&mut keys, &mut keys_out);
            std::mem::swap(&mut order, &mut order_out);
        }
        let mut starts = numbers(cells + 1)?;
        KERNELS.launch(
            device,
            "samples_starts",
            any,
            Work::Elements(cells + 1),
            [
                read_all("samples: cells", &keys)?,
                write("samples: starts", &mut starts)?,
                count(samples),
                count(cells),
            ],
        )?;
        Ok((order, starts))
    }
}
