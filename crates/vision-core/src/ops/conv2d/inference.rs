//! Convolution in passes without gradients: what follows it is done in the same pass over memory, and weights that never
//! change are brought into the order of the kernels once.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

use super::panels::Panels;
use super::{Conv2dArgs, Epilogue, Geometry, kernels, winograd};
use crate::FeatureMap;
use crate::cpu::{Isa, active};
use crate::error::Result;
use crate::ops::support::{
    Float, check_device, check_dims, check_dtype, check_float, check_same_device, dispatch_float,
    storage_slice,
};

/// What [`conv2d_inference_nhwc`] does with the results of the convolution, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct AfterConv<'a> {
    /// Factor of each output channel, `(O)`.
    pub scale: Option<&'a Tensor>,
    /// Added to each output channel, `(O)`.
    pub shift: Option<&'a Tensor>,
    /// Added, a map of the result's shape.
    pub residual: Option<&'a FeatureMap>,
    /// Whether negative results become 0.
    pub relu: bool,
}

/// A weight of [`conv2d_inference_nhwc`], `(O, C / groups, kh, kw)`, with room for the order that the kernels read it in.
///
/// The first call fills the room, unless the weight is a variable, which may change between calls: that is brought into
/// order each time, some milliseconds per ten million numbers. Nobody may change a weight in place that is no variable.
/// Clones share the room, which takes as much memory as the weight.
///
/// A weight of 3x3 taps that is no variable is kept in a transformed order as well, 16/9 of its size, once a map comes
/// by that is large enough: convolutions of stride 1 and one group with at least 32 channels on both sides then need 16
/// multiplications where the plain form has 36 (Winograd's F(2x2, 3x3)). Their rounding errors are up to three times
/// those of the plain form, and an infinity or NaN reaches all results of the tiles it lies in, up to seven more than it
/// should.
#[derive(Clone)]
pub struct PackedConvWeight {
    weight: Tensor,
    packed: Arc<[OnceLock<Packed>; 2]>,
}

/// An order of the weights, and the room for it.
#[derive(Clone, Copy)]
enum Form {
    Plain,
    Winograd,
}

/// `Panels<f32>` or `Panels<f64>`, for kernels of `isa` and convolutions of so many groups.
struct Packed {
    isa: Isa,
    groups: usize,
    panels: Box<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for PackedConvWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedConvWeight")
            .field("weight", &self.weight)
            .field("packed", &self.packed.each_ref().map(|room| room.get().is_some()))
            .finish()
    }
}

impl PackedConvWeight {
    /// Wraps `weight`; whether it fits is checked when it is used.
    pub fn new(weight: Tensor) -> Self {
        Self { weight, packed: Arc::default() }
    }

    /// The weight, `(O, C / groups, kh, kw)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The form in which `g` is best computed. A variable would be transformed again each time.
    fn form(&self, g: &Geometry) -> Form {
        if !self.weight.is_variable() && winograd::suits(g) { Form::Winograd } else { Form::Plain }
    }

    /// Runs `with` on the weight in order, which the room keeps if the weight may not change.
    fn panels<T: Float, R>(
        &self,
        g: &Geometry,
        form: Form,
        with: impl FnOnce(Option<&Panels<T>>) -> R,
    ) -> Result<R> {
        let pack = || -> Result<Option<Panels<T>>> {
            let weight = self.weight.contiguous()?;
            let (s, l) = weight.storage_and_layout();
            let weight = storage_slice::<T>("conv2d: weight", &s, l)?;
            Ok(match form {
                Form::Plain => kernels::pack(g, weight),
                Form::Winograd => Some(winograd::pack(g, weight)),
            })
        };
        if self.weight.is_variable() {
            return Ok(with(pack()?.as_ref()));
        }
        let (isa, room) = (active(), &self.packed[form as usize]);
        if room.get().is_none()
            && let Some(panels) = pack()?
        {
            // Another thread may have been faster; its panels are the same.
            let _ = room.set(Packed { isa, groups: g.groups(), panels: Box::new(panels) });
        }
        let kept = room.get().filter(|packed| packed.isa == isa && packed.groups == g.groups());
        match kept.and_then(|packed| packed.panels.downcast_ref::<Panels<T>>()) {
            Some(panels) => Ok(with(Some(panels))),
            None => Ok(with(pack()?.as_ref())),
        }
    }
}

/// [`conv2d_nhwc`](super::conv2d_nhwc) without a gradient, with the operations that usually follow in the same pass.
///
/// # Errors
/// As [`conv2d`](super::conv2d()), and if a tensor of `after` has another shape, type or device.
pub fn conv2d_inference_nhwc(
    input: &FeatureMap,
    weight: &PackedConvWeight,
    args: &Conv2dArgs,
    after: &AfterConv<'_>,
) -> Result<FeatureMap> {
    let input = input.nhwc();
    check_float("conv2d: input", input)?;
    check_device("conv2d: input", input)?;
    let geometry = Geometry::new(input, &weight.weight, args)?;
    let (channels, output) = ([geometry.out_channels], geometry.output_dims());
    let others: [(_, _, Option<&[usize]>); 4] = [
        ("conv2d: weight", Some(&weight.weight), None),
        ("conv2d: scale", after.scale, Some(&channels)),
        ("conv2d: shift", after.shift, Some(&channels)),
        ("conv2d: residual", after.residual.map(FeatureMap::nhwc), Some(&output)),
    ];
    for (what, tensor, dims) in others {
        let Some(tensor) = tensor else { continue };
        check_dtype(what, tensor, input.dtype())?;
        check_same_device(what, tensor, input)?;
        if let Some(dims) = dims {
            check_dims(what, tensor, dims)?;
        }
    }
    #[cfg(feature = "cuda")]
    if input.device().is_cuda() {
        let out = super::cuda::inference(&geometry, input, &weight.weight.contiguous()?, after)?;
        return FeatureMap::from_nhwc(crate::cuda::tensor(out, output.as_slice()));
    }
    let vector = |tensor: Option<&Tensor>| tensor.map(Tensor::contiguous).transpose();
    let (scale, shift) = (vector(after.scale)?, vector(after.shift)?);
    let (si, li) = input.storage_and_layout();
    let scale = scale.as_ref().map(Tensor::storage_and_layout);
    let shift = shift.as_ref().map(Tensor::storage_and_layout);
    let residual = after.residual.map(|map| map.nhwc().storage_and_layout());
    dispatch_float!("conv2d: input", input.dtype(), T => {
        let slice = |what: &str, (storage, layout)| storage_slice::<T>(what, storage, layout);
        let scale = scale.as_ref().map(|(s, l)| slice("conv2d: scale", (&**s, *l))).transpose()?;
        let bias = shift.as_ref().map(|(s, l)| slice("conv2d: shift", (&**s, *l))).transpose()?;
        let residual = residual.as_ref().map(|(s, l)| slice("conv2d: residual", (&**s, *l))).transpose()?;
        let input = slice("conv2d: input", (&*si, li))?;
        let epilogue = Epilogue { scale, bias, residual, relu: after.relu };
        let form = weight.form(&geometry);
        let out = weight.panels::<T, Result<Vec<T>>>(&geometry, form, |panels| {
            match (form, panels) {
                (Form::Winograd, Some(panels)) => return Ok(winograd::forward(&geometry, input, panels, epilogue)),
                (Form::Plain, Some(panels)) => {
                    return Ok(kernels::forward_packed(&geometry, input, panels, epilogue));
                }
                (_, None) => {}
            }
            let weight = weight.weight.contiguous()?;
            let (s, l) = weight.storage_and_layout();
            let weight = storage_slice::<T>("conv2d: weight", &s, l)?;
            Ok(kernels::forward(&geometry, input, weight, epilogue))
        })??;
        FeatureMap::from_nhwc(Tensor::from_vec(out, output.as_slice(), &Device::Cpu)?)
    })
}
