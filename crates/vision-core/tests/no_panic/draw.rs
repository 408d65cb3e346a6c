//! Arguments drawn from a seed.

use candle_core::{DType, Device, Tensor, Var};
use vision_core::ops::{BoxExtent, Reduction};

/// Choices, each a function of the seed and of how many were made before.
pub(crate) struct Draw {
    state: u64,
    /// The element type of tensors that are not spoiled.
    pub(crate) dtype: DType,
}

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        let mut draw = Self { state: seed, dtype: DType::F32 };
        if draw.chance(3) {
            draw.dtype = DType::F64;
        }
        draw
    }

    /// `SplitMix64`.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `times`.
    pub(crate) fn chance(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// The size of an axis.
    pub(crate) fn size(&mut self) -> usize {
        self.pick(&[0, 1, 2, 3, 4, 5, 7])
    }

    /// A count such as a stride or a padding.
    pub(crate) fn count(&mut self) -> usize {
        if self.chance(8) {
            self.pick(&[usize::MAX, usize::MAX / 2, isize::MAX as usize, 1 << 62, (1 << 61) + 1])
        } else {
            self.pick(&[0, 1, 1, 1, 2, 3])
        }
    }

    pub(crate) fn pair(&mut self) -> [usize; 2] {
        [self.count(), self.count()]
    }

    /// An argument that is a real number.
    pub(crate) fn number(&mut self) -> f64 {
        let odd = [0.0, -1.0, 1e-300, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        if self.chance(4) { self.pick(&odd) } else { self.pick(&[0.0625, 0.1, 0.25, 0.5, 0.9, 1.0]) }
    }

    /// A tensor of those sizes, unless it is spoiled.
    pub(crate) fn tensor(&mut self, dims: &[usize]) -> Tensor {
        self.any(dims, 1.0)
    }

    /// As [`Draw::tensor`] with coordinates of boxes: numbers up to `span`.
    pub(crate) fn coordinates(&mut self, dims: &[usize], span: f64) -> Tensor {
        self.any(dims, span)
    }

    pub(crate) fn any(&mut self, dims: &[usize], span: f64) -> Tensor {
        let dims = self.spoiled(dims);
        let dtype = if self.chance(12) {
            self.pick(&[DType::F32, DType::F64, DType::U32, DType::I64, DType::U8, DType::BF16])
        } else {
            self.dtype
        };
        let odd = [0.0, -0.0, 1e30, -1e30, 1e-40, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX];
        let wild = self.chance(3);
        let values: Vec<f64> = (0..dims.iter().product())
            .map(|_| {
                if wild && self.chance(4) {
                    self.pick(&odd)
                } else {
                    (self.below(1 << 20) as f64 / f64::from(1 << 19) - 0.5) * span
                }
            })
            .collect();
        self.laid_out(values, &dims, dtype)
    }

    /// Numbers of rows or classes, mostly below `end`.
    pub(crate) fn index(&mut self, dims: &[usize], end: usize) -> Tensor {
        let dims = self.spoiled(dims);
        let values: Vec<f64> = (0..dims.iter().product())
            .map(|_| if self.chance(30) { f64::from(u32::MAX) } else { self.below(end.max(1)) as f64 })
            .collect();
        let dtype = if self.chance(8) { self.pick(&[DType::I64, DType::U8, DType::F32]) } else { DType::U32 };
        self.laid_out(values, &dims, dtype)
    }

    pub(crate) fn spoiled(&mut self, dims: &[usize]) -> Vec<usize> {
        let mut dims = dims.to_vec();
        if self.chance(10) && !dims.is_empty() {
            let at = self.below(dims.len());
            match self.below(3) {
                0 => dims[at] = self.size(),
                1 => drop(dims.remove(at)),
                _ => dims.insert(at, self.size()),
            }
        }
        dims
    }

    /// A variable, half of the time; its memory may be in another order.
    pub(crate) fn laid_out(&mut self, values: Vec<f64>, dims: &[usize], dtype: DType) -> Tensor {
        let tensor = Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let variable = self.chance(2);
        let stored = |tensor: &Tensor| {
            if variable { Var::from_tensor(tensor).unwrap().as_tensor().clone() } else { tensor.clone() }
        };
        match self.below(6) {
            0 if dims.len() > 1 => {
                let last = dims.len() - 1;
                let turned = tensor.transpose(0, last).unwrap().contiguous().unwrap();
                stored(&turned).transpose(0, last).unwrap()
            }
            // One row for all: strides of zero.
            1 if !dims.is_empty() && dims[0] > 0 => {
                stored(&tensor.narrow(0, 0, 1).unwrap()).broadcast_as(dims).unwrap()
            }
            // Not at the start of its memory.
            2 if !dims.is_empty() => {
                let twice = stored(&Tensor::cat(&[&tensor, &tensor], 0).unwrap());
                twice.narrow(0, dims[0], dims[0]).unwrap()
            }
            _ => stored(&tensor),
        }
    }

    pub(crate) fn map(&mut self, dims: [usize; 4]) -> Tensor {
        self.tensor(&dims)
    }

    pub(crate) fn maybe(&mut self, dims: &[usize]) -> Option<Tensor> {
        (!self.chance(3)).then(|| self.tensor(dims))
    }

    /// Sizes of a map, `(N, C, H, W)`.
    pub(crate) fn map_dims(&mut self) -> [usize; 4] {
        let [n, c] = [self.pick(&[0, 1, 2]), self.pick(&[0, 1, 2, 4, 8])];
        [n, c, self.size(), self.size()]
    }

    /// Boxes with the number of their picture, `(K, 5)`.
    pub(crate) fn regions(&mut self, images: usize) -> Tensor {
        let count = self.pick(&[0, 1, 3]);
        if self.chance(3) {
            return self.coordinates(&[count, 5], 20.0);
        }
        let rows: Vec<f64> = (0..count)
            .flat_map(|_| {
                let [x, y, w, h] = [(); 4].map(|()| self.below(80) as f64 / 8.0 - 1.0);
                [self.below(images.max(1)) as f64, x, y, x + w, y + h]
            })
            .collect();
        self.laid_out(rows, &[count, 5], self.dtype)
    }

    pub(crate) fn reduction(&mut self) -> Reduction {
        self.pick(&[Reduction::None, Reduction::Mean, Reduction::Sum])
    }

    pub(crate) fn extent(&mut self) -> BoxExtent {
        self.pick(&[BoxExtent::Continuous, BoxExtent::Inclusive])
    }
}
