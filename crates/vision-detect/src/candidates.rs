//! Boxes on the host with their scores, on the way to non-maximum suppression.
//!
//! Which boxes are kept is decided by comparisons, so numbers are rounded as the element type of the tensors they came
//! from rounds them: what ties there ties here.

use candle_core::{DType, Device, Tensor};
use vision_core::ops::{NmsArgs, batched_nms};

use crate::error::{Error, Result};

/// Rounds a result of arithmetic as the element type `dtype` does.
pub(crate) fn rounded(dtype: DType) -> impl Fn(f64) -> f64 + Copy {
    move |x| if dtype == DType::F32 { f64::from(x as f32) } else { x }
}

/// The numbers of a tensor, in row-major order.
pub(crate) fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    // Nothing cannot be brought over from some devices.
    if tensor.elem_count() == 0 {
        return Ok(Vec::new());
    }
    let flat = tensor.detach().contiguous()?.flatten_all()?;
    Ok(flat.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?)
}

/// The rows of boxes `(.., 4)`.
pub(crate) fn sides(boxes: &Tensor) -> Result<Vec<[f64; 4]>> {
    Ok(numbers(boxes)?.as_chunks::<4>().0.to_vec())
}

/// Boxes in a picture, with scores and the groups within which they suppress each other.
pub(crate) struct Candidates {
    /// What they are called in errors.
    what: &'static str,
    dtype: DType,
    /// Height and width of the picture.
    size: [usize; 2],
    /// Sides shorter than this are too short.
    min_size: f64,
    boxes: Vec<[f64; 4]>,
    scores: Vec<f64>,
    groups: Vec<i64>,
}

/// The boxes that are left, best first, on the CPU.
pub(crate) struct Kept {
    /// `(K, 4)`.
    pub(crate) boxes: Tensor,
    /// `(K)`.
    pub(crate) scores: Tensor,
    /// `(K)`, of type `i64`.
    pub(crate) groups: Tensor,
}

impl Candidates {
    pub(crate) fn new(what: &'static str, dtype: DType, size: [usize; 2], min_size: f64) -> Self {
        let min_size = rounded(dtype)(min_size);
        Self { what, dtype, size, min_size, boxes: Vec::new(), scores: Vec::new(), groups: Vec::new() }
    }

    /// Adds box number `index`, cut off at the picture's border, unless that leaves too little of it.
    pub(crate) fn add(&mut self, index: usize, sides: [f64; 4], score: f64, group: i64) -> Result<()> {
        if sides.iter().any(|side| side.is_nan()) {
            let what = format!("{}: box", self.what);
            return Err(Error::NotFinite { what, index, values: sides.to_vec(), expected: "numbers" });
        }
        let [height, width] = self.size.map(|size| size as f64);
        let [x1, y1, x2, y2] = sides;
        let cut = [x1.clamp(0., width), y1.clamp(0., height), x2.clamp(0., width), y2.clamp(0., height)];
        let round = rounded(self.dtype);
        if round(cut[2] - cut[0]) >= self.min_size && round(cut[3] - cut[1]) >= self.min_size {
            self.boxes.push(cut);
            self.scores.push(score);
            self.groups.push(group);
        }
        Ok(())
    }

    /// The best boxes, at most `most`, after suppression within each group.
    pub(crate) fn suppress(&self, iou_threshold: f64, most: usize) -> Result<Kept> {
        let count = self.boxes.len();
        let tensors = |boxes: Vec<f64>, scores: Vec<f64>| -> Result<[Tensor; 2]> {
            let shape = (scores.len(), 4);
            Ok([
                Tensor::from_vec(boxes, shape, &Device::Cpu)?.to_dtype(self.dtype)?,
                Tensor::from_vec(scores, shape.0, &Device::Cpu)?.to_dtype(self.dtype)?,
            ])
        };
        let [boxes, scores] = tensors(self.boxes.as_flattened().to_vec(), self.scores.clone())?;
        let groups = Tensor::from_vec(self.groups.clone(), count, &Device::Cpu)?;
        let keep = batched_nms(&boxes, &scores, &groups, &NmsArgs::new(iou_threshold))?;
        let keep = keep.narrow(0, 0, most.min(keep.elem_count()))?;
        Ok(Kept {
            boxes: boxes.index_select(&keep, 0)?,
            scores: scores.index_select(&keep, 0)?,
            groups: groups.index_select(&keep, 0)?,
        })
    }
}
