//! Boxes as offsets from other boxes, as torchvision's `BoxCoder` 0.29.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ops::BoxExtent;
use crate::ops::support::{Float, chunk_rows, contiguous, cpu_slice, dispatch_float, storage_slice};
use crate::ops::{check_boxes, support};

/// Turns boxes into offsets from anchors and back.
///
/// With centres `cx, cy` and sizes `w, h`, and `a` for those of the anchor, the offsets of a box are
/// `wx (cx - cxa) / wa`, `wy (cy - cya) / ha`, `ww ln(w / wa)` and `wh ln(h / ha)`.
///
/// With [`BoxExtent::Inclusive`] sizes count pixels, `x2 - x1 + 1`, and the centre is `x1 + (w - 1) / 2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxCoder {
    /// Factors of the four offsets, `(x, y, w, h)`; none is 0.
    pub weights: [f64; 4],
    /// Upper limit of the logarithms of size ratios in decoding, so that no size overflows.
    pub clip: f64,
    /// How widths are counted.
    pub extent: BoxExtent,
}

impl Default for BoxCoder {
    /// Weights 1, sizes up to 1000 / 16 times the anchor's, continuous boxes.
    fn default() -> Self {
        Self { weights: [1.; 4], clip: (1000_f64 / 16.).ln(), extent: BoxExtent::Continuous }
    }
}

impl BoxCoder {
    /// Offsets `(N, 4)` of `boxes` `(N, 4)` from `anchors` `(N, 4)`.
    ///
    /// A target for training: it has no gradient. Boxes without size give infinite or NaN offsets.
    ///
    /// # Errors
    /// If shapes or types do not fit, if a tensor takes part in a graph, or if a weight is 0 or not finite.
    pub fn encode(&self, boxes: &Tensor, anchors: &Tensor) -> Result<Tensor> {
        self.check("box_coder.encode")?;
        let count = check_boxes("box_coder.encode: boxes", boxes)?;
        check_constant("box_coder.encode: boxes", boxes)?;
        check_anchors("box_coder.encode: anchors", anchors, count, boxes)?;
        let (boxes, anchors) = (contiguous(boxes)?, contiguous(anchors)?);
        #[cfg(feature = "cuda")]
        if boxes.device().is_cuda() {
            return cuda::encode(self, &boxes, &anchors);
        }
        let ((bs, bl), (s, l)) = (boxes.storage_and_layout(), anchors.storage_and_layout());
        dispatch_float!("box_coder.encode: boxes", boxes.dtype(), T => {
            let boxes = storage_slice::<T>("box_coder.encode: boxes", &bs, bl)?;
            let anchors = storage_slice::<T>("box_coder.encode: anchors", &s, l)?;
            let mut out = vec![T::ZERO; boxes.len()];
            let weights = self.weights.map(T::from_f64);
            let chunk = chunk_rows(count, 4) * 4;
            out.par_chunks_mut(chunk)
                .zip(boxes.par_chunks(chunk).zip(anchors.par_chunks(chunk)))
                .for_each(|(out, (boxes, anchors))| {
                    let pairs = boxes.as_chunks::<4>().0.iter().zip(anchors.as_chunks::<4>().0);
                    for (out, (&b, &a)) in out.as_chunks_mut::<4>().0.iter_mut().zip(pairs) {
                        let ([cx, cy], [w, h]) = self.centre_and_size(b);
                        let ([cxa, cya], [wa, ha]) = self.centre_and_size(a);
                        *out = [
                            weights[0] * (cx - cxa) / wa,
                            weights[1] * (cy - cya) / ha,
                            weights[2] * T::from_f64((w / wa).to_f64().ln()),
                            weights[3] * T::from_f64((h / ha).to_f64().ln()),
                        ];
                    }
                });
            Ok(Tensor::from_vec(out, (count, 4), &Device::Cpu)?)
        })
    }

    /// Boxes `(N, 4 K)` from offsets `deltas` `(N, 4 K)`, `K` per anchor (such as one per class), and
    /// `anchors` `(N, 4)`.
    ///
    /// The offsets get a gradient; where the clip acts, that of the size is zero.
    ///
    /// # Errors
    /// If shapes or types do not fit, if the anchors take part in a graph, if a weight is 0 or not finite, or
    /// if the clip is NaN.
    pub fn decode(&self, deltas: &Tensor, anchors: &Tensor) -> Result<Tensor> {
        self.check("box_coder.decode")?;
        support::check_float("box_coder.decode: deltas", deltas)?;
        support::check_device("box_coder.decode: deltas", deltas)?;
        let &[count, width] = deltas.dims() else {
            return Err(Error::shape("box_coder.decode: deltas", "(N, 4 K)", deltas.dims()));
        };
        if width % 4 != 0 {
            return Err(Error::shape("box_coder.decode: deltas", "(N, 4 K)", deltas.dims()));
        }
        check_anchors("box_coder.decode: anchors", anchors, count, deltas)?;
        Ok(contiguous(deltas)?.apply_op2(&contiguous(anchors)?, Decode(*self))?)
    }

    fn check(&self, op: &str) -> Result<()> {
        if let Some(weight) = self.weights.iter().find(|weight| **weight == 0. || !weight.is_finite()) {
            return Err(Error::argument(format!("{op}: weights"), format!("{weight} is not possible")));
        }
        if self.clip.is_nan() {
            return Err(Error::argument(format!("{op}: clip"), "is NaN"));
        }
        Ok(())
    }

    fn centre_and_size<T: Float>(&self, [x1, y1, x2, y2]: [T; 4]) -> ([T; 2], [T; 2]) {
        let (margin, half) = (self.extent.margin(), T::from_f64(0.5));
        let (w, h) = (x2 - x1 + margin, y2 - y1 + margin);
        ([x1 + half * (w - margin), y1 + half * (h - margin)], [w, h])
    }

    /// The logarithm of a size ratio, limited; NaN stays.
    fn clipped<T: Float>(&self, log: T) -> T {
        let clip = T::from_f64(self.clip);
        if log > clip { clip } else { log }
    }

    fn boxes<T: Float>(&self, deltas: &[T], anchors: &[T]) -> Vec<T> {
        let (margin, half) = (self.extent.margin(), T::from_f64(0.5));
        let weights = self.weights.map(T::from_f64);
        each(deltas, anchors, |a, d, _| {
            let ([cx, cy], [w, h]) = self.centre_and_size(a);
            let (cx, cy) = (d[0] / weights[0] * w + cx, d[1] / weights[1] * h + cy);
            let w = half * (self.clipped(d[2] / weights[2]).exp() * w - margin);
            let h = half * (self.clipped(d[3] / weights[3]).exp() * h - margin);
            [cx - w, cy - h, cx + w, cy + h]
        })
    }

    fn gradient<T: Float>(&self, deltas: &[T], anchors: &[T], grad: &[T]) -> Vec<T> {
        let (clip, half) = (T::from_f64(self.clip), T::from_f64(0.5));
        let weights = self.weights.map(T::from_f64);
        let grad = grad.as_chunks::<4>().0;
        each(deltas, anchors, |a, d, i| {
            let (_, [w, h]) = self.centre_and_size(a);
            let g = grad[i];
            let size = |log: T, size: T, g: T| {
                // As PyTorch's `clamp`: nothing passes at the limit itself.
                if log < clip { half * log.exp() * size * g } else { T::ZERO }
            };
            [
                (g[0] + g[2]) * w / weights[0],
                (g[1] + g[3]) * h / weights[1],
                size(d[2] / weights[2], w, g[2] - g[0]) / weights[2],
                size(d[3] / weights[3], h, g[3] - g[1]) / weights[3],
            ]
        })
    }
}

/// `f(anchor, offsets, number)` for all offsets.
fn each<T: Float>(deltas: &[T], anchors: &[T], f: impl Fn([T; 4], [T; 4], usize) -> [T; 4] + Sync) -> Vec<T> {
    let mut out = vec![T::ZERO; deltas.len()];
    if out.is_empty() {
        return out;
    }
    let per_anchor = deltas.len() / anchors.len();
    let chunk = chunk_rows(anchors.len() / 4, per_anchor * 4) * per_anchor;
    let (deltas, anchors) = (deltas.as_chunks::<4>().0, anchors.as_chunks::<4>().0);
    out.as_chunks_mut::<4>().0.par_chunks_mut(chunk).enumerate().for_each(|(part, out)| {
        for (i, out) in (part * chunk..).zip(out) {
            *out = f(anchors[i / per_anchor], deltas[i], i);
        }
    });
    out
}

fn check_constant(what: &str, tensor: &Tensor) -> Result<()> {
    if tensor.track_op() {
        return Err(Error::argument(what, "gets no gradient; detach it"));
    }
    Ok(())
}

fn check_anchors(what: &str, anchors: &Tensor, count: usize, like: &Tensor) -> Result<()> {
    check_boxes(what, anchors)?;
    check_constant(what, anchors)?;
    support::check_same_device(what, anchors, like)?;
    support::check_dims(what, anchors, &[count, 4])?;
    support::check_dtype(what, anchors, like.dtype())
}

struct Decode(BoxCoder);

impl CustomOp2 for Decode {
    fn name(&self) -> &'static str {
        "box_coder.decode"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("box_coder.decode: deltas", s1.dtype(), T => {
            let deltas = cpu_slice::<T>("box_coder.decode: deltas", s1, l1)?;
            let anchors = cpu_slice::<T>("box_coder.decode: anchors", s2, l2)?;
            Ok((T::to_cpu_storage_owned(self.0.boxes(deltas, anchors)), l1.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((cuda::decode(&self.0, (s1, l1), (s2, l2))?, l1.shape().clone()))
    }

    fn bwd(
        &self,
        deltas: &Tensor,
        anchors: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        if !deltas.track_op() {
            return Ok((None, None));
        }
        let grad = contiguous(grad)?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok((Some(cuda::gradient(&self.0, deltas, anchors, &grad)?), None));
        }
        let (ds, dl) = deltas.storage_and_layout();
        let (s, l) = anchors.storage_and_layout();
        let (gs, gl) = grad.storage_and_layout();
        dispatch_float!("box_coder.decode: gradient", grad.dtype(), T => {
            let out = self.0.gradient(
                storage_slice::<T>("box_coder.decode: deltas", &ds, dl)?,
                storage_slice::<T>("box_coder.decode: anchors", &s, l)?,
                storage_slice::<T>("box_coder.decode: gradient", &gs, gl)?,
            );
            Ok((Some(Tensor::from_vec(out, deltas.shape(), &Device::Cpu)?), None))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Key;
    use crate::testing::{assert_close, gradcheck};

    fn boxes(name: &str, count: usize) -> Tensor {
        let key = Key::new(3).fold(name);
        let corner = key.uniform((count, 2), 0., 40., DType::F64, &Device::Cpu).unwrap();
        let size = key.fold("size").uniform((count, 2), 1., 25., DType::F64, &Device::Cpu).unwrap();
        Tensor::cat(&[&corner, &(&corner + size).unwrap()], 1).unwrap()
    }

    fn normal(dims: (usize, usize)) -> Tensor {
        Key::new(4).normal(dims, 0., 1., DType::F64, &Device::Cpu).unwrap()
    }

    #[test]
    fn hand_made_offsets() {
        let anchor = Tensor::new(&[[0., 0., 10., 20.]], &Device::Cpu).unwrap();
        let moved = Tensor::new(&[[10., 10., 30., 20.]], &Device::Cpu).unwrap();
        let coder = BoxCoder { weights: [10., 10., 5., 5.], ..BoxCoder::default() };
        let got = coder.encode(&moved, &anchor).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(got, [[15., 2.5, 5. * 2_f64.ln(), 5. * 0.5_f64.ln()]]);
        // Pixels: the anchor has 11 x 21 of them, its centre stays.
        let coder = BoxCoder { extent: BoxExtent::Inclusive, ..BoxCoder::default() };
        let got = coder.encode(&moved, &anchor).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(got, [[15. / 11., 5. / 21., (21_f64 / 11.).ln(), (11_f64 / 21.).ln()]]);
    }

    #[test]
    fn decoding_undoes_encoding() {
        let (b, a) = (boxes("b", 50), boxes("a", 50));
        for extent in [BoxExtent::Continuous, BoxExtent::Inclusive] {
            let coder = BoxCoder { weights: [10., 20., 5., 2.], extent, ..BoxCoder::default() };
            let back = coder.decode(&coder.encode(&b, &a).unwrap(), &a).unwrap();
            assert_close(&back, &b, 1e-12, 1e-10).unwrap();
        }
    }

    #[test]
    fn sizes_are_clipped() {
        let anchor = Tensor::new(&[[0_f32, 0., 16., 16.]], &Device::Cpu).unwrap();
        let deltas = Var::new(&[[0_f32, 0., 100., f32::INFINITY]], &Device::Cpu).unwrap();
        let y = BoxCoder::default().decode(&deltas, &anchor).unwrap();
        let got = y.to_vec2::<f32>().unwrap();
        assert!(got[0].iter().zip([-492., -492., 508., 508.]).all(|(a, b)| (a - b).abs() < 1e-3), "{got:?}");
        let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&deltas).unwrap().to_vec2::<f32>().unwrap()[0][2..], [0., 0.]);
    }

    #[test]
    fn gradients_of_one_and_many_classes() {
        for (count, classes) in [(5, 1), (3, 4)] {
            let anchors = boxes("a", count);
            for extent in [BoxExtent::Continuous, BoxExtent::Inclusive] {
                let coder = BoxCoder { weights: [10., 10., 5., 5.], clip: 0.1, extent };
                gradcheck(|t| coder.decode(&t[0], &anchors), &[normal((count, 4 * classes))], 1e-6, 1e-6)
                    .unwrap();
            }
        }
    }

    #[test]
    fn strided_and_empty() {
        let (deltas, anchors) = (normal((8, 6)).t().unwrap(), boxes("a", 6));
        let coder = BoxCoder::default();
        let want = coder.decode(&deltas.contiguous().unwrap(), &anchors).unwrap();
        assert_close(&coder.decode(&deltas, &anchors).unwrap(), &want, 0., 0.).unwrap();
        let none = anchors.narrow(0, 0, 0).unwrap();
        assert_eq!(coder.encode(&none, &none).unwrap().dims(), [0, 4]);
        let empty = Var::zeros((0, 12), DType::F64, &Device::Cpu).unwrap();
        let y = coder.decode(&empty, &none).unwrap();
        assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&empty).unwrap().dims(), [0, 12]);
        assert_eq!(coder.decode(&normal((6, 8)).narrow(1, 0, 0).unwrap(), &anchors).unwrap().dims(), [6, 0]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let (a, coder) = (boxes("a", 3), BoxCoder::default());
        let text = |r: Result<Tensor>| r.unwrap_err().to_string();
        assert!(text(coder.encode(&a, &boxes("a", 2))).starts_with("box_coder.encode: anchors"));
        assert!(text(coder.encode(&a.narrow(1, 0, 2).unwrap(), &a)).starts_with("box_coder.encode: boxes"));
        assert!(text(coder.decode(&normal((3, 6)), &a)).starts_with("box_coder.decode: deltas"));
        let single = a.to_dtype(DType::F32).unwrap();
        assert!(text(coder.decode(&a, &single)).starts_with("box_coder.decode: anchors"));
        let tracked = Var::from_tensor(&a).unwrap();
        assert!(text(coder.decode(&a, &tracked)).contains("detach"));
        assert!(text(coder.encode(&tracked, &a)).contains("detach"));
        let wrong = BoxCoder { weights: [1., 0., 1., 1.], ..coder };
        assert!(text(wrong.decode(&a, &a)).starts_with("box_coder.decode: weights"));
        assert!(text(BoxCoder { clip: f64::NAN, ..coder }.encode(&a, &a)).contains("clip"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn nothing_panics(values in prop::collection::vec(prop::num::f32::ANY, 0..64)) {
            let count = values.len() / 8;
            let deltas = Var::from_slice(&values[..4 * count], (count, 4), &Device::Cpu).unwrap();
            let anchors = Tensor::from_slice(&values[4 * count..8 * count], (count, 4), &Device::Cpu).unwrap();
            let y = BoxCoder::default().decode(&deltas, &anchors).unwrap();
            y.sum_all().unwrap().backward().unwrap();
            BoxCoder::default().encode(&deltas.as_detached_tensor(), &anchors).unwrap();
        }
    }
}
