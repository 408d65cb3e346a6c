//! Affine map of the last dimension: `y = x W^T + b`.
//!
//! Shapes are those of PyTorch's `linear`: input `(..., in)`, weight `(out, in)`, bias `(out,)`, output
//! `(..., out)`. Only the gradients that somebody asked for are computed. Work is cut into blocks whose
//! size does not depend on the number of threads, so neither do the results.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Shape, Tensor};

use super::conv2d::{Conv2dArgs, Epilogue, Geometry, kernels};
use super::support::{
    Float, check_device, check_dims, check_dtype, check_float, check_same_device, column_sums, cpu_slice,
    dispatch_float, storage_slice,
};
use crate::error::{Error, Result};

/// `input W^T + bias` for an input `(..., in)`, a weight `(out, in)` and a bias `(out,)`; the result is
/// `(..., out)`. All are `f32` or all `f64`, on one device.
///
/// # Errors
/// If shapes, element types or devices do not fit.
pub fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let [out, width] = weight.dims() else {
        return Err(Error::shape("linear: weight", "(out, in)", weight.dims()));
    };
    if input.dims().last() != Some(width) {
        return Err(Error::shape("linear: input", format!("(..., {width})"), input.dims()));
    }
    check_float("linear: input", input)?;
    check_dtype("linear: weight", weight, input.dtype())?;
    check_device("linear: input", input)?;
    check_same_device("linear: weight", weight, input)?;
    let (x, w) = (input.contiguous()?, weight.contiguous()?);
    let Some(bias) = bias else {
        return Ok(x.apply_op2(&w, Linear)?);
    };
    check_dims("linear: bias", bias, &[*out])?;
    check_dtype("linear: bias", bias, input.dtype())?;
    check_same_device("linear: bias", bias, input)?;
    Ok(x.apply_op3(&w, &bias.contiguous()?, Linear)?)
}

struct Linear;

impl Linear {
    fn forward(
        x: (&CpuStorage, &Layout),
        w: (&CpuStorage, &Layout),
        b: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (out, _) = w.1.shape().dims2()?;
        let mut dims = x.1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = out;
        }
        dispatch_float!("linear: input", x.0.dtype(), T => {
            let b = b.map(|(s, l)| cpu_slice::<T>("linear: bias", s, l)).transpose()?;
            let x = cpu_slice::<T>("linear: input", x.0, x.1)?;
            let w = cpu_slice::<T>("linear: weight", w.0, w.1)?;
            let count = dims.iter().product();
            Ok((T::to_cpu_storage_owned(forward(x, w, b, out, count)), dims.into()))
        })
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda(
        x: (&CudaStorage, &Layout),
        w: (&CudaStorage, &Layout),
        b: Option<(&CudaStorage, &Layout)>,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (out, width) = w.1.shape().dims2()?;
        let mut dims = x.1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = out;
        }
        let rows = dims[..dims.len() - 1].iter().product();
        Ok((cuda::forward(x, w, b, [rows, out, width])?, dims.into()))
    }

    fn backward(x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return cuda::backward(x, w, &grad);
        }
        dispatch_float!("linear: gradient", grad.dtype(), T => {
            let ((gs, gl), (xs, xl), (ws, wl)) =
                (grad.storage_and_layout(), x.storage_and_layout(), w.storage_and_layout());
            let g = storage_slice::<T>("linear: gradient", &gs, gl)?;
            let (out, width) = w.dims2()?;
            let dx = if x.track_op() {
                let dx = input_gradient(g, storage_slice::<T>("linear: weight", &ws, wl)?, out, width, x.elem_count());
                Some(Tensor::from_vec(dx, x.shape(), &Device::Cpu)?)
            } else {
                None
            };
            let dw = if w.track_op() {
                let dw = weight_gradient(g, storage_slice::<T>("linear: input", &xs, xl)?, out, width);
                Some(Tensor::from_vec(dw, w.shape(), &Device::Cpu)?)
            } else {
                None
            };
            Ok((dx, dw))
        })
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Self::forward((s1, l1), (s2, l2), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Self::forward_cuda((s1, l1), (s2, l2), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(Self::backward(x, w, grad)?)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Self::forward((s1, l1), (s2, l2), Some((s3, l3)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Self::forward_cuda((s1, l1), (s2, l2), Some((s3, l3)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = Self::backward(x, w, grad)?;
        let db = if b.track_op() { Some(bias_gradient(grad, b)?) } else { None };
        Ok((dx, dw, db))
    }
}

fn bias_gradient(grad: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let grad = grad.contiguous()?;
    #[cfg(feature = "cuda")]
    if grad.device().is_cuda() {
        return super::conv2d::cuda::bias_backward(&grad, bias.elem_count());
    }
    let (s, l) = grad.storage_and_layout();
    dispatch_float!("linear: gradient", grad.dtype(), T => {
        let sums = column_sums(storage_slice::<T>("linear: gradient", &s, l)?, bias.elem_count());
        let sums: Vec<T> = sums.into_iter().map(T::from_f64).collect();
        Ok(Tensor::from_vec(sums, bias.shape(), &Device::Cpu)?)
    })
}

/// `rows` vectors as pixels, which a 1 x 1 convolution maps: its kernels share out wide results as well as many rows.
fn geometry(rows: usize, out: usize, width: usize) -> Geometry {
    Geometry {
        batch: 1,
        input: [1, rows],
        output: [1, rows],
        in_channels: width,
        out_channels: out,
        kernel: [1, 1],
        args: Conv2dArgs::default(),
    }
}

/// `count` elements of `x w^T + b`.
fn forward<T: Float>(x: &[T], w: &[T], b: Option<&[T]>, out: usize, count: usize) -> Vec<T> {
    if count == 0 {
        return Vec::new();
    }
    let (rows, width) = (count / out, w.len() / out);
    if width == 0 {
        return b.map_or_else(|| vec![T::ZERO; count], |b| b.repeat(rows));
    }
    kernels::forward(&geometry(rows, out, width), x, w, Epilogue { bias: b, ..Epilogue::NONE })
}

/// `g w`.
fn input_gradient<T: Float>(g: &[T], w: &[T], out: usize, width: usize, count: usize) -> Vec<T> {
    if count == 0 || out == 0 {
        return vec![T::ZERO; count];
    }
    kernels::data_gradient(&geometry(count / width, out, width), w, g, None)
}

/// `g^T x`.
fn weight_gradient<T: Float>(g: &[T], x: &[T], out: usize, width: usize) -> Vec<T> {
    if g.is_empty() || width == 0 {
        return vec![T::ZERO; out * width];
    }
    kernels::weight_gradient(&geometry(g.len() / out, out, width), x, g)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::rng::Key;
    use crate::testing::{assert_close, gradcheck};

    fn random(name: &str, dims: &[usize], dtype: DType) -> Tensor {
        Key::new(1).fold(name).normal(dims, 0., 1., dtype, &Device::Cpu).unwrap()
    }

    #[test]
    fn hand_made_numbers_and_any_leading_dimensions() {
        let x = Tensor::new(&[[[1.0f32, 2.0], [3.0, 4.0]]], &Device::Cpu).unwrap();
        let w = Tensor::new(&[[1.0f32, 0.0], [0.0, 1.0], [1.0, -1.0]], &Device::Cpu).unwrap();
        let b = Tensor::new(&[0.5f32, 0.0, 1.0], &Device::Cpu).unwrap();
        let y = linear(&x, &w, Some(&b)).unwrap();
        assert_eq!(y.to_vec3::<f32>().unwrap(), [[[1.5, 2.0, 0.0], [3.5, 4.0, 0.0]]]);
        let row = linear(&x.get(0).unwrap().get(1).unwrap(), &w, None).unwrap();
        assert_eq!(row.to_vec1::<f32>().unwrap(), [3.0, 4.0, -1.0]);
        let none = linear(&Tensor::zeros((0, 2), DType::F32, &Device::Cpu).unwrap(), &w, Some(&b)).unwrap();
        assert_eq!(none.dims(), [0, 3]);
        let nothing = Tensor::zeros((3, 0), DType::F32, &Device::Cpu).unwrap();
        let y =
            linear(&Tensor::zeros((2, 0), DType::F32, &Device::Cpu).unwrap(), &nothing, Some(&b)).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.5, 0.0, 1.0]; 2]);
    }

    #[test]
    fn gradients() {
        let f = |t: &[Tensor]| linear(&t[0], &t[1], Some(&t[2]));
        let inputs = [
            random("x", &[2, 3, 5], DType::F64),
            random("w", &[4, 5], DType::F64),
            random("b", &[4], DType::F64),
        ];
        gradcheck(f, &inputs, 1e-4, 1e-6).unwrap();
        // More than one block, a strided input and weight, no bias.
        let f = |t: &[Tensor]| linear(&t[0].t()?, &t[1].t()?, None);
        gradcheck(f, &[random("x", &[2, 70], DType::F64), random("w", &[2, 3], DType::F64)], 1e-4, 1e-6)
            .unwrap();
        let empty = Var::zeros((0, 5), DType::F64, &Device::Cpu).unwrap();
        let w = Var::from_tensor(&inputs[1]).unwrap();
        let grads = linear(&empty, &w, None).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&w).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap(), 0.);
    }

    #[test]
    fn results_do_not_depend_on_threads() {
        let (x, w) = (random("x", &[200, 300], DType::F32), random("w", &[130, 300], DType::F32));
        let run = || {
            let (x, w) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&w).unwrap());
            let y = linear(&x, &w, None).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (flat(&y), flat(grads.get(&x).unwrap()), flat(grads.get(&w).unwrap()))
        };
        let threads = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        assert!(threads(1).install(run) == threads(3).install(run));
        assert_close(&linear(&x, &w, None).unwrap(), &x.matmul(&w.t().unwrap()).unwrap(), 1e-4, 1e-4)
            .unwrap();
    }

    #[test]
    fn misfits_are_typed_errors() {
        let (x, w) = (random("x", &[2, 3], DType::F32), random("w", &[4, 3], DType::F32));
        let bias = random("b", &[3], DType::F32);
        assert!(matches!(linear(&x, &w.t().unwrap(), None), Err(Error::Shape { .. })));
        assert!(matches!(linear(&x, &w, Some(&bias)), Err(Error::Shape { .. })));
        assert!(matches!(linear(&x, &w.to_dtype(DType::F64).unwrap(), None), Err(Error::Dtype { .. })));
        assert!(matches!(linear(&x, &x.get(0).unwrap(), None), Err(Error::Shape { .. })));
        assert!(matches!(linear(&x.to_dtype(DType::U32).unwrap(), &w, None), Err(Error::Dtype { .. })));
    }
}
