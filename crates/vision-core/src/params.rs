//! Named parameters: one ordered store from which models are built, trained, saved and loaded.

mod init;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::Init;
use candle_nn::var_builder::{SimpleBackend, VarBuilder};
use vision_weights::{Array, LoadReport, StateDict};

use crate::error::{Error, Result};
use crate::rng::Key;

/// The parameters and buffers of a model, ordered by name; clones share the same content.
///
/// [`ParamStore::var_builder`] gives candle's `VarBuilder`, from which models are built. A tensor is made
/// on its first use and the same one is handed out afterwards. Its initial value depends on the store's
/// key and on its full name only, so neither construction order nor the number of threads matters.
///
/// Names that end in `running_mean`, `running_var` or `num_batches_tracked` are *buffers*: saved and
/// loaded, but never trained. Everything else is a *parameter*.
#[derive(Clone)]
pub struct ParamStore(Arc<Inner>);

struct Inner {
    key: Key,
    dtype: DType,
    device: Device,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    frozen: Vec<String>,
}

struct Entry {
    var: Var,
    frozen: bool,
}

impl ParamStore {
    /// An empty store. `key` is the source of the initial values, `dtype` (`F32` or `F64` where something
    /// random is made) and `device` are what the `VarBuilder` asks for unless told otherwise.
    pub fn new(key: Key, dtype: DType, device: &Device) -> Self {
        let inner = Inner { key, dtype, device: device.clone(), state: Mutex::default() };
        Self(Arc::new(inner))
    }

    /// A builder of models whose tensors live in this store.
    ///
    /// Parameters and buffers come out as variables, those below a [frozen](Self::freeze) prefix as plain
    /// tensors that share the store's memory. Asking for an existing name with another shape, element
    /// type or device is an error.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.0.dtype, self.0.device.clone())
    }

    /// Freezes everything called `prefix` or below it (`layer1` covers `layer1.0.weight`, not
    /// `layer10.weight`; the empty prefix covers all): models built afterwards get tensors outside of
    /// the graph, so that no gradient is computed for them.
    ///
    /// # Errors
    /// If a tensor below the prefix has been handed out already: a model holds it as a variable.
    pub fn freeze(&self, prefix: &str) -> Result<()> {
        let prefix = prefix.trim_end_matches('.');
        let mut state = self.state();
        let used = state.entries.iter().find(|(name, entry)| !entry.frozen && is_below(name, prefix));
        if let Some((name, _)) = used {
            return Err(Error::argument(
                "ParamStore::freeze: prefix",
                format!("`{name}` is in use already; freeze `{prefix}` before building the model"),
            ));
        }
        state.frozen.push(prefix.to_owned());
        Ok(())
    }

    /// The parameters that are not frozen, in order of their names.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        self.select(|name, entry| !entry.frozen && !is_buffer(name))
    }

    /// The buffers, frozen or not, in order of their names.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        self.select(|name, _| is_buffer(name))
    }

    /// Parameters and buffers, frozen or not, in order of their names.
    pub fn all(&self) -> Vec<(String, Var)> {
        self.select(|_, _| true)
    }

    /// The variable called `name`, if it has been made.
    pub fn get(&self, name: &str) -> Option<Var> {
        self.state().entries.get(name).map(|entry| entry.var.clone())
    }

    /// Number of elements of all parameters, frozen ones included, buffers not.
    pub fn num_parameters(&self) -> usize {
        let state = self.state();
        state.entries.iter().filter(|(name, _)| !is_buffer(name)).map(|(_, e)| e.var.elem_count()).sum()
    }

    /// A copy of everything in the store, without metadata.
    ///
    /// # Errors
    /// If a tensor has an element type that weight files do not have.
    pub fn state_dict(&self) -> Result<StateDict> {
        let mut dict = StateDict::new();
        for (name, var) in self.all() {
            let array = to_array(&name, &var)?;
            dict.insert(name, array);
        }
        Ok(dict)
    }

    /// Copies the tensors of `dict` into those of the same name and shape, converting element types.
    /// Models built from the store see the new values.
    ///
    /// The report says what was copied and what did not fit; a tensor of another shape is left as it was.
    /// Strictness is the caller's: `store.load(&dict)?.allow_missing("fc.").check()?`.
    ///
    /// # Errors
    /// If an array cannot be converted, for example floats into an integer counter. All conversions are
    /// made before the first copy, so nothing has changed then.
    pub fn load(&self, dict: &StateDict) -> Result<LoadReport> {
        let vars: BTreeMap<String, Var> = self.all().into_iter().collect();
        let expected = vars.iter().map(|(name, var)| (name.clone(), var.dims().to_vec())).collect();
        let found = dict.tensors.iter().map(|(name, array)| (name.clone(), array.shape.clone())).collect();
        let report = LoadReport::compare(&expected, &found);
        let mut copies = Vec::with_capacity(report.loaded.len());
        for name in &report.loaded {
            if let (Some(var), Some(array)) = (vars.get(name), dict.get(name)) {
                copies.push((var, from_array(name, array, var.dtype(), var.device())?));
            }
        }
        for (var, value) in copies {
            var.set(&value)?;
        }
        Ok(report)
    }

    fn select(&self, keep: impl Fn(&str, &Entry) -> bool) -> Vec<(String, Var)> {
        let state = self.state();
        let kept = state.entries.iter().filter(|(name, entry)| keep(name, entry));
        kept.map(|(name, entry)| (name.clone(), entry.var.clone())).collect()
    }

    /// The state is consistent between any two statements, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get_or_create(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut state = self.state();
        if let Some(entry) = state.entries.get(name) {
            if entry.var.shape() != &shape {
                let expected = format!("{:?}, as at its first use", entry.var.dims());
                return Err(Error::shape(format!("parameter `{name}`"), expected, shape.dims()));
            }
            check_kind(name, &entry.var, dtype, device)?;
            return Ok(entry.hand_out());
        }
        let value = init::tensor(self.0.key.fold(name), name, shape, init, dtype, device)?;
        let frozen = state.frozen.iter().any(|prefix| is_below(name, prefix));
        let entry = Entry { var: Var::from_tensor(&value)?, frozen };
        let tensor = entry.hand_out();
        state.entries.insert(name.to_owned(), entry);
        Ok(tensor)
    }
}

impl Entry {
    fn hand_out(&self) -> Tensor {
        if self.frozen { self.var.as_detached_tensor() } else { self.var.as_tensor().clone() }
    }
}

impl SimpleBackend for ParamStore {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        Ok(self.get_or_create(shape, name, init, dtype, device)?)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let state = self.state();
        let entry = state
            .entries
            .get(name)
            .ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt())?;
        check_kind(name, &entry.var, dtype, device)?;
        Ok(entry.hand_out())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.state().entries.contains_key(name)
    }
}

impl fmt::Debug for ParamStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParamStore")
            .field("key", &self.0.key)
            .field("dtype", &self.0.dtype)
            .field("device", &self.0.device.location())
            .field("tensors", &self.state().entries.len())
            .finish()
    }
}

/// A converted copy would no longer be the parameter, so another type or device is refused.
fn check_kind(name: &str, var: &Var, dtype: DType, device: &Device) -> Result<()> {
    if var.dtype() != dtype {
        return Err(Error::Dtype {
            what: format!("parameter `{name}`"),
            expected: format!("{:?}, as at its first use", var.dtype()),
            got: dtype,
        });
    }
    if !var.device().same_device(device) {
        return Err(Error::Device {
            what: format!("parameter `{name}`"),
            expected: format!("{:?}, as at its first use", var.device().location()),
            got: format!("{:?}", device.location()),
        });
    }
    Ok(())
}

/// Whether `name` is `prefix` or a dotted name below it.
fn is_below(name: &str, prefix: &str) -> bool {
    prefix.is_empty()
        || name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether the last segment of a name is one of batch normalisation's statistics.
fn is_buffer(name: &str) -> bool {
    ["running_mean", "running_var", "num_batches_tracked"].iter().any(|suffix| name.ends_with(suffix))
}

/// A copy of a tensor in plain memory; any device and layout, types `F64`, `F32`, `I64`, `U32`, `U8`.
pub(crate) fn to_array(name: &str, tensor: &Tensor) -> Result<Array> {
    let flat = tensor.detach().to_device(&Device::Cpu)?.flatten_all()?;
    let shape = tensor.dims();
    Ok(match tensor.dtype() {
        DType::F64 => Array::from_f64(shape, &flat.to_vec1()?)?,
        DType::F32 => Array::from_f32(shape, &flat.to_vec1()?)?,
        DType::I64 => Array::from_i64(shape, &flat.to_vec1()?)?,
        DType::U32 => Array::from_u32(shape, &flat.to_vec1()?)?,
        DType::U8 => Array::from_u8(shape, &flat.to_vec1()?)?,
        got => return Err(unsupported(name, got)),
    })
}

/// An array as a tensor of the given type.
pub(crate) fn from_array(name: &str, array: &Array, dtype: DType, device: &Device) -> Result<Tensor> {
    let shape = array.shape.as_slice();
    let cpu = &Device::Cpu;
    let tensor = match dtype {
        DType::F64 => Tensor::from_vec(array.to_f64()?, shape, cpu)?,
        DType::F32 => Tensor::from_vec(array.to_f32()?, shape, cpu)?,
        DType::I64 => Tensor::from_vec(array.to_i64()?, shape, cpu)?,
        DType::U32 => Tensor::from_vec(array.to_u32()?, shape, cpu)?,
        got => return Err(unsupported(name, got)),
    };
    Ok(tensor.to_device(device)?)
}

fn unsupported(name: &str, got: DType) -> Error {
    Error::Dtype { what: format!("tensor `{name}`"), expected: "F64, F32, I64 or U32".into(), got }
}

#[cfg(test)]
mod tests;
