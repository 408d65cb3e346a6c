//! One case: reading the file, making inputs of the stored layout, collecting outputs and gradients.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use vision_weights::{Array, Dtype, StateDict};

use crate::args::Args;
use crate::compare::Tolerance;

/// A case in memory, its inputs ready for the op.
#[derive(Debug)]
pub struct Case {
    /// The file.
    pub path: PathBuf,
    /// Which op to run.
    pub op: String,
    /// Its arguments.
    pub args: Args,
    /// How far results may be off.
    pub tolerance: Tolerance,
    /// A part of the message of the error that the run must return.
    pub expect_error: Option<String>,
    /// Where tensors live.
    pub device: Device,
    arrays: BTreeMap<String, Array>,
    inputs: BTreeMap<String, Leaf>,
    params: BTreeMap<String, Leaf>,
    read: RefCell<BTreeSet<String>>,
}

/// What an op returns.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Results by name, without the `out.` of the file.
    pub tensors: BTreeMap<String, Tensor>,
    /// Variables the op made itself (a network's parameters), by state dict name, for `grad.param.NAME`.
    pub params: BTreeMap<String, Tensor>,
    /// Gradients that the op computed itself, by name with `in.` or `param.`: of ranks, which go backward together,
    /// each on a thread of its own.
    pub grads: BTreeMap<String, Tensor>,
}

impl Outputs {
    /// One result named `output`, as most functions have.
    pub fn one(tensor: Tensor) -> Self {
        Self::default().with("output", tensor)
    }

    /// Adds a result.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: Tensor) -> Self {
        self.tensors.insert(name.to_owned(), tensor);
        self
    }
}

/// A tensor as stored (a variable if its gradient is asked for) and as the op sees it.
#[derive(Debug)]
struct Leaf {
    stored: Tensor,
    view: Tensor,
    layout: Layout,
}

/// How values are laid out in memory; the shape an op sees never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Contiguous,
    /// The last two dimensions swapped.
    Transposed,
    /// (N, H, W, C) behind (N, C, H, W).
    ChannelsLast,
    /// A window of wider rows, so that strides leave gaps and the data does not start at 0.
    Sliced,
}

impl Layout {
    fn parse(name: Option<&str>) -> Result<Self> {
        Ok(match name {
            None | Some("contiguous") => Self::Contiguous,
            Some("transposed") => Self::Transposed,
            Some("channels_last") => Self::ChannelsLast,
            Some("sliced") => Self::Sliced,
            Some(other) => bail!("unknown layout {other}"),
        })
    }

    /// This layout if a tensor of `rank` dimensions can have it.
    fn for_rank(self, rank: usize) -> Self {
        let needed = match self {
            Self::Contiguous => 0,
            Self::Sliced => 1,
            Self::Transposed => 2,
            Self::ChannelsLast => 4,
        };
        if rank >= needed && (self != Self::ChannelsLast || rank == 4) { self } else { Self::Contiguous }
    }

    fn store(self, tensor: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Contiguous => Ok(tensor.clone()),
            Self::Transposed => {
                let last = tensor.rank() - 1;
                tensor.transpose(last - 1, last)?.contiguous()
            }
            Self::ChannelsLast => tensor.permute((0, 2, 3, 1))?.contiguous(),
            Self::Sliced => {
                let last = tensor.rank() - 1;
                let mut edge = tensor.dims().to_vec();
                edge[last] = 1;
                // Far from any value: reading it would not go unnoticed.
                let edge = (Tensor::ones(edge, tensor.dtype(), tensor.device())? * 1e6)?;
                Tensor::cat(&[&edge, tensor, &edge], last)
            }
        }
    }

    fn view(self, stored: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Contiguous => Ok(stored.clone()),
            Self::Transposed => stored.transpose(stored.rank() - 2, stored.rank() - 1),
            Self::ChannelsLast => stored.permute((0, 3, 1, 2)),
            Self::Sliced => {
                let last = stored.rank() - 1;
                stored.narrow(last, 1, stored.dim(last)? - 2)
            }
        }
    }
}

impl Case {
    /// Reads the case at `path` and puts its inputs on `device`.
    ///
    /// # Errors
    /// If the file is damaged, misses metadata, or holds a type that tensors do not have.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let file = vision_weights::open(path)?;
        let metadata = file.metadata();
        let text = |key: &str| metadata.get(key).map(String::as_str);
        let need = |key: &str| text(key).ok_or_else(|| anyhow!("metadata has no `{key}`"));
        let number = |key: &str| -> Result<f64> {
            let value = text(key).map_or(Ok(0.0), str::parse);
            value.with_context(|| format!("metadata `{key}` is no number"))
        };
        let op = need("op")?.to_owned();
        let args = Args::parse(text("args").unwrap_or("{}"))?;
        let tolerance = Tolerance { relative: number("rtol")?, absolute: number("atol")? };
        let expect_error = text("expect_error").map(str::to_owned);
        let layout = Layout::parse(args.text("layout")?.as_deref())?;

        let mut arrays = BTreeMap::new();
        for name in file.names() {
            arrays.insert(name.to_owned(), file.read(name)?);
        }
        let (mut inputs, mut params) = (BTreeMap::new(), BTreeMap::new());
        for (name, array) in &arrays {
            let target = if let Some(key) = name.strip_prefix("in.") {
                Some((&mut inputs, key))
            } else {
                name.strip_prefix("param.").map(|key| (&mut params, key))
            };
            if let Some((group, key)) = target {
                let wanted = arrays.contains_key(&format!("grad.{name}"));
                let leaf = Leaf::new(array, layout, wanted, device).with_context(|| name.clone())?;
                group.insert(key.to_owned(), leaf);
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            op,
            args,
            tolerance,
            expect_error,
            device: device.clone(),
            arrays,
            inputs,
            params,
            read: RefCell::default(),
        })
    }

    /// The input `in.NAME`, if the case has it.
    pub fn maybe(&self, name: &str) -> Option<Tensor> {
        let leaf = self.inputs.get(name)?;
        self.read.borrow_mut().insert(format!("in.{name}"));
        Some(leaf.view.clone())
    }

    /// The input `in.NAME`.
    ///
    /// # Errors
    /// If the case has none of that name.
    pub fn input(&self, name: &str) -> Result<Tensor> {
        self.maybe(name).ok_or_else(|| anyhow!("the case has no in.{name}"))
    }

    /// The input `in.NAME` as it lies in the file.
    ///
    /// # Errors
    /// If the case has none of that name.
    pub fn array(&self, name: &str) -> Result<&Array> {
        let key = format!("in.{name}");
        let array = self.arrays.get(&key).ok_or_else(|| anyhow!("the case has no {key}"))?;
        self.read.borrow_mut().insert(key);
        Ok(array)
    }

    /// All stored parameters, by state dict name.
    pub fn params(&self) -> BTreeMap<String, Tensor> {
        let mut read = self.read.borrow_mut();
        let one = |(name, leaf): (&String, &Leaf)| {
            read.insert(format!("param.{name}"));
            (name.clone(), leaf.view.clone())
        };
        self.params.iter().map(one).collect()
    }

    /// All stored parameters as a state dict.
    pub fn state_dict(&self) -> StateDict {
        let mut state = StateDict::new();
        for (name, array) in &self.arrays {
            if let Some(key) = name.strip_prefix("param.") {
                self.read.borrow_mut().insert(name.clone());
                state.insert(key, array.clone());
            }
        }
        state
    }

    /// The type the case computes in: that of its first floating input, `f32` if it has none.
    pub fn dtype(&self) -> DType {
        let mut leaves = self.inputs.values().chain(self.params.values());
        leaves.find(|leaf| leaf.view.dtype().is_float()).map_or(DType::F32, |leaf| leaf.view.dtype())
    }

    /// Names of inputs, parameters and arguments that the op's row did not read.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let stored = self.arrays.keys().filter(|name| name.starts_with("in.") || name.starts_with("param."));
        let mut unread: Vec<_> = stored.filter(|name| !read.contains(*name)).cloned().collect();
        unread.extend(self.args.unread());
        unread
    }

    /// Expected arrays whose names start with `prefix`, with the rest of the name.
    pub fn expected<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Array)> {
        self.arrays.iter().filter_map(move |(name, array)| Some((name.strip_prefix(prefix)?, array)))
    }

    /// The upstream gradient of output NAME, on the device of the case.
    ///
    /// # Errors
    /// If the case has none.
    pub fn upstream(&self, name: &str) -> Result<Tensor> {
        let key = format!("gradout.{name}");
        let array = self.arrays.get(&key).ok_or_else(|| anyhow!("the case has no {key}"))?;
        to_tensor(array, &self.device)
    }

    /// Runs backward from `outputs` with the upstream gradients of the file; `None` if it has none.
    ///
    /// # Errors
    /// If an upstream gradient does not fit its output, or backward fails.
    pub fn backward(&self, outputs: &Outputs) -> Result<Option<GradStore>> {
        let mut total: Option<Tensor> = None;
        for (name, array) in self.expected("gradout.") {
            let output = outputs.tensors.get(name).ok_or_else(|| anyhow!("the op returned no {name}"))?;
            let upstream =
                to_tensor(array, &Device::Cpu)?.to_dtype(output.dtype())?.to_device(&self.device)?;
            if upstream.dims() != output.dims() {
                bail!("gradout.{name} is {:?}, the output {:?}", upstream.dims(), output.dims());
            }
            // The tensor library's kernels fail on nothing on a CUDA device. Nothing adds up to zero.
            let term = if output.elem_count() == 0 && self.device.is_cuda() {
                Tensor::zeros((), output.dtype(), &self.device)?
            } else {
                output.mul(&upstream)?.sum_all()?
            };
            total = Some(match total {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
        Ok(total.map(|total| total.backward()).transpose()?)
    }

    /// The gradient of `in.NAME` or `param.NAME` in the layout the op saw; `None` if nothing depends on it.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn gradient(&self, name: &str, outputs: &Outputs, grads: &GradStore) -> Result<Option<Tensor>> {
        if let Some(grad) = outputs.grads.get(name) {
            return Ok(Some(grad.clone()));
        }
        let leaf = match (name.strip_prefix("in."), name.strip_prefix("param.")) {
            (Some(key), _) => self.inputs.get(key),
            (_, Some(key)) => match outputs.params.get(key) {
                Some(variable) => return Ok(grads.get(variable).cloned()),
                None => self.params.get(key),
            },
            _ => None,
        };
        let leaf = leaf.ok_or_else(|| anyhow!("no tensor is called {name}"))?;
        Ok(grads.get(&leaf.stored).map(|grad| leaf.layout.view(grad)).transpose()?)
    }
}

impl Leaf {
    fn new(array: &Array, layout: Layout, variable: bool, device: &Device) -> Result<Self> {
        let tensor = to_tensor(array, device)?;
        let layout =
            if tensor.dtype().is_float() { layout.for_rank(tensor.rank()) } else { Layout::Contiguous };
        let stored = layout.store(&tensor)?;
        let stored = if variable { Var::from_tensor(&stored)?.as_tensor().clone() } else { stored };
        let view = layout.view(&stored)?;
        Ok(Self { stored, view, layout })
    }
}

/// The array as a tensor of the same type.
pub(crate) fn to_tensor(array: &Array, device: &Device) -> Result<Tensor> {
    let shape = array.shape.as_slice();
    Ok(match array.dtype {
        Dtype::F64 => Tensor::from_vec(array.to_f64()?, shape, device)?,
        Dtype::F32 => Tensor::from_vec(array.to_f32()?, shape, device)?,
        Dtype::I64 => Tensor::from_vec(array.to_i64()?, shape, device)?,
        Dtype::U32 => Tensor::from_vec(array.to_u32()?, shape, device)?,
        Dtype::U8 => Tensor::from_vec(array.data.clone(), shape, device)?,
        other => bail!("{other:?} tensors are not supported in cases"),
    })
}
