//! Initial values of parameters.

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;

use crate::error::{Error, Result};
use crate::rng::Key;

/// The initial value of the parameter `name`; its random numbers are those of `key`.
///
/// The formulas are those of the tensor library: Kaiming's standard deviation is `gain / sqrt(fan)`, with
/// a fan of 1 for vectors and scalars.
pub(super) fn tensor(
    key: Key,
    name: &str,
    shape: Shape,
    init: Init,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    match init {
        Init::Const(value) => constant(shape, value, dtype, device),
        Init::Uniform { lo, up } => key.uniform(shape, lo, up, dtype, device),
        Init::Randn { mean, stdev } => key.normal(shape, mean, stdev, dtype, device),
        Init::Kaiming { dist, fan, non_linearity } => {
            let fan = fan.for_shape(&shape);
            if fan == 0 {
                return Err(Error::shape(
                    format!("parameter `{name}`"),
                    "a fan of at least 1 for Kaiming initialisation",
                    shape.dims(),
                ));
            }
            let std = non_linearity.gain() / (fan as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => key.normal(shape, 0., std, dtype, device),
                NormalOrUniform::Uniform => {
                    let bound = 3_f64.sqrt() * std;
                    key.uniform(shape, -bound, bound, dtype, device)
                }
            }
        }
    }
}

fn constant(shape: Shape, value: f64, dtype: DType, device: &Device) -> Result<Tensor> {
    if value == 0. {
        return Ok(Tensor::zeros(shape, dtype, device)?);
    }
    // Filling one element and copying it keeps the value exact; scaling ones would go through arithmetic.
    let one = Tensor::new(value, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
    Ok(one.broadcast_as(shape)?.contiguous()?)
}
