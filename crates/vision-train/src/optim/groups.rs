//! Groups of parameters as every optimiser holds them, and arrays of its state.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Tensor, Var};
use vision_weights::{Array, Dtype};

use crate::error::{Error, Problem, Result};
use crate::recipe::ParamGroup;

/// Groups of parameters without a name twice.
#[derive(Debug)]
pub(super) struct Groups(Vec<ParamGroup>);

impl Groups {
    /// `problems` are those of the optimiser's constants.
    pub(super) fn new(groups: Vec<ParamGroup>, problems: Vec<Problem>) -> Result<Self> {
        if !problems.is_empty() {
            return Err(Error::Invalid { path: "optimiser".to_owned(), problems });
        }
        let mut seen = BTreeSet::new();
        for group in &groups {
            for (name, _) in &group.params {
                if !seen.insert(name.clone()) {
                    return Err(Error::Usage(format!(
                        "parameter group `{}`: `{name}` is already in a group",
                        group.name
                    )));
                }
            }
        }
        Ok(Self(groups))
    }

    pub(super) fn as_slice(&self) -> &[ParamGroup] {
        &self.0
    }

    pub(super) fn params(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.0.iter().flat_map(|group| group.params.iter().map(|(name, var)| (name.as_str(), var)))
    }

    /// What is to be updated: the group, name, variable and gradient of each parameter that has one.
    ///
    /// # Errors
    /// While going on, if a gradient has another shape than its parameter.
    pub(super) fn with_gradients<'a>(
        &'a self,
        grads: &'a BTreeMap<String, Tensor>,
    ) -> impl Iterator<Item = Result<(&'a ParamGroup, &'a str, &'a Var, &'a Tensor)>> {
        self.0.iter().flat_map(|group| group.params.iter().map(move |param| (group, param))).filter_map(
            |(group, (name, var))| {
                let grad = grads.get(name)?;
                Some(if grad.dims() == var.dims() {
                    Ok((group, name.as_str(), var, grad))
                } else {
                    Err(Error::Core(vision_core::Error::shape(
                        format!("gradient of {name}"),
                        format!("{:?}", var.dims()),
                        grad.dims(),
                    )))
                })
            },
        )
    }

    /// The parameter an entry of an optimiser's state belongs to: `key` is its name, a dot and one of `kinds`.
    pub(super) fn owner<'a>(&self, key: &str, kinds: &[&'a str]) -> Result<(&str, &'a str, &Var)> {
        let found = key.rsplit_once('.').and_then(|(name, kind)| {
            let kind = kinds.iter().find(|known| **known == kind)?;
            let (name, var) = self.params().find(|(candidate, _)| *candidate == name)?;
            Some((name, *kind, var))
        });
        found.ok_or_else(|| Error::Format {
            what: "optimiser state".to_owned(),
            problem: format!("`{key}` belongs to no parameter"),
        })
    }
}

/// Fails unless the entry `key` of an optimiser's state has the sizes `dims`.
pub(super) fn check_shape(key: &str, array: &Array, dims: &[usize]) -> Result<()> {
    if array.shape == dims {
        return Ok(());
    }
    Err(Error::Format {
        what: format!("optimiser state `{key}`"),
        problem: format!("expected shape {dims:?}, got {:?}", array.shape),
    })
}

/// Floating tensors of 4 and 8 bytes keep their bits.
pub(super) fn to_array(tensor: &Tensor) -> Result<Array> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F64 => Array::from_f64(tensor.dims(), &flat.to_vec1::<f64>()?)?,
        _ => Array::from_f32(tensor.dims(), &flat.to_dtype(DType::F32)?.to_vec1::<f32>()?)?,
    })
}

/// The array as a tensor of the type and on the device of `like`.
pub(super) fn from_array(array: &Array, like: &Tensor) -> Result<Tensor> {
    let tensor = match array.dtype {
        Dtype::F64 => Tensor::from_vec(array.to_f64()?, array.shape.clone(), like.device())?,
        _ => Tensor::from_vec(array.to_f32()?, array.shape.clone(), like.device())?,
    };
    Ok(tensor.to_dtype(like.dtype())?)
}
