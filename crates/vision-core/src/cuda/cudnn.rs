//! Convolutions by cuDNN, with feature `cudnn`: forward and both gradients, of maps `(N, H, W, C)`.
//!
//! Of the algorithms that cuDNN lists, the fastest one is taken that it calls deterministic and whose workspace is not
//! too large. `f32` is computed in `f32`: TF32 and tensor cores are off. The list depends on sizes and the GPU's kind
//! only, so the same call takes the same algorithm.
//!
//! What cuDNN cannot do is left to our own kernels, by the rules of [`Convolution::suits`] and where it lists no such
//! algorithm; the latter is logged.

mod descriptors;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cudnn::sys;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result};
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use candle_core::cuda_backend::{DeviceId, WrapErr};
use candle_core::{CudaDevice, DType};

use self::descriptors::{Descriptors, check};
use super::{Arg, MOST_ELEMENTS};
use crate::error::{Error, Result};

/// Bytes of a workspace that an algorithm may take.
const MOST_WORKSPACE: usize = 1 << 30;
/// Plans that a thread remembers. Sizes may differ in every step, as pictures do.
const MOST_PLANS: usize = 1024;
/// Room for all algorithms of a pass.
const ALGORITHMS: usize = 8;

/// Sizes of a convolution, as cuDNN names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Convolution {
    /// `(N, C, H, W)` of the map.
    pub(crate) input: [usize; 4],
    /// `(O, C / groups, kh, kw)`; in memory the channels come last.
    pub(crate) weight: [usize; 4],
    /// `(N, O, OH, OW)` of the result.
    pub(crate) output: [usize; 4],
    pub(crate) padding: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) dilation: [usize; 2],
    pub(crate) groups: usize,
}

/// What to compute, and of which buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// The result, of map and weights.
    Forward,
    /// The gradient of the map, of weights and the result's gradient.
    Data,
    /// The gradient of the weights, of the map and the result's gradient.
    Weight,
}

/// An algorithm of one of the passes.
#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Data(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// How to do a pass.
struct Plan {
    descriptors: Descriptors,
    algorithm: Algorithm,
    /// Bytes.
    workspace: usize,
}

/// `None` where cuDNN has no algorithm for us.
type Plans = HashMap<(Convolution, Pass), Option<Rc<Plan>>>;

/// cuDNN on one device, for one thread: its handles may not be shared.
struct Library {
    handle: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
    plans: RefCell<Plans>,
}

thread_local! {
    static LIBRARIES: RefCell<HashMap<DeviceId, Rc<Library>>> = RefCell::default();
}

impl Library {
    fn of(device: &CudaDevice) -> Result<Rc<Self>> {
        LIBRARIES.with_borrow_mut(|libraries| {
            if let Some(library) = libraries.get(&device.id()) {
                return Ok(Rc::clone(library));
            }
            let stream = device.cuda_stream();
            stream.context().bind_to_thread().w()?;
            let handle = check(result::create_handle())?;
            // From here on dropping it destroys the handle.
            let library = Rc::new(Self { handle, stream, plans: RefCell::default() });
            let stream = library.stream.cu_stream().cast();
            #[allow(unsafe_code, reason = "calls cuDNN")]
            // SAFETY: handle and stream live as long as `library`.
            check(unsafe { result::set_stream(handle, stream) })?;
            libraries.insert(device.id(), Rc::clone(&library));
            Ok(library)
        })
    }

    /// The plan for a pass, made on first use.
    fn plan(&self, sizes: &Convolution, pass: Pass) -> Result<Option<Rc<Plan>>> {
        if let Some(plan) = self.plans.borrow().get(&(*sizes, pass)) {
            return Ok(plan.clone());
        }
        let plan = Plan::new(self.handle, sizes, pass)?.map(Rc::new);
        if plan.is_none() {
            tracing::debug!(?sizes, ?pass, "cuDNN has no deterministic algorithm, our own kernels run");
        }
        let mut plans = self.plans.borrow_mut();
        if plans.len() >= MOST_PLANS {
            plans.clear();
        }
        plans.insert((*sizes, pass), plan.clone());
        Ok(plan)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        #[allow(unsafe_code, reason = "calls cuDNN")]
        // SAFETY: nothing else has the handle. There is nobody to report a failure to.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// The first algorithm of a list, fastest first, that is deterministic, adds products in full precision and takes no
/// more workspace than it may.
macro_rules! first_suitable {
    ($list:expr, $found:expr, $workspace:expr) => {{
        let mut chosen = None;
        for one in $list.iter().take(usize::try_from($found).unwrap_or(0)) {
            let plain = matches!(
                one.mathType,
                sys::cudnnMathType_t::CUDNN_DEFAULT_MATH | sys::cudnnMathType_t::CUDNN_FMA_MATH
            );
            let works = one.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS;
            if !works || !plain || one.determinism != sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC {
                continue;
            }
            if let Some(bytes) = supported($workspace(one.algo))?.filter(|&bytes| bytes <= MOST_WORKSPACE) {
                chosen = Some((one.algo, bytes));
                break;
            }
        }
        chosen
    }};
}

/// `None` instead of the error that something is not supported.
fn supported<T>(done: std::result::Result<T, CudnnError>) -> Result<Option<T>> {
    match done {
        Err(CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED)) => Ok(None),
        done => check(done).map(Some),
    }
}

impl Plan {
    fn new(handle: sys::cudnnHandle_t, sizes: &Convolution, pass: Pass) -> Result<Option<Self>> {
        let descriptors = Descriptors::new(sizes)?;
        let Descriptors { input: x, weight: w, output: y, convolution: c } = &descriptors;
        let (x, w, y, c) = (x.0, w.0, y.0, c.0);
        let (mut found, room) = (0, ALGORITHMS as i32);
        #[allow(unsafe_code, reason = "calls cuDNN")]
        // SAFETY: handle and descriptors are alive; the lists have room for as many entries as are asked for, and zeros
        // are an entry.
        let chosen = unsafe {
            match pass {
                Pass::Forward => {
                    let mut list: [sys::cudnnConvolutionFwdAlgoPerf_t; ALGORITHMS] = std::mem::zeroed();
                    let (count, to) = (&raw mut found, list.as_mut_ptr());
                    supported(result::get_convolution_forward_algorithm(
                        handle, x, w, c, y, room, count, to,
                    ))?;
                    first_suitable!(list, found, |algorithm| {
                        result::get_convolution_forward_workspace_size(handle, x, w, c, y, algorithm)
                    })
                    .map(|(algorithm, workspace)| (Algorithm::Forward(algorithm), workspace))
                }
                Pass::Data => {
                    let mut list: [sys::cudnnConvolutionBwdDataAlgoPerf_t; ALGORITHMS] = std::mem::zeroed();
                    let (count, to) = (&raw mut found, list.as_mut_ptr());
                    supported(result::get_convolution_backward_data_algorithm(
                        handle, w, y, c, x, room, count, to,
                    ))?;
                    first_suitable!(list, found, |algorithm| {
                        result::get_convolution_backward_data_workspace_size(handle, w, y, c, x, algorithm)
                    })
                    .map(|(algorithm, workspace)| (Algorithm::Data(algorithm), workspace))
                }
                Pass::Weight => {
                    let mut list: [sys::cudnnConvolutionBwdFilterAlgoPerf_t; ALGORITHMS] = std::mem::zeroed();
                    let (count, to) = (&raw mut found, list.as_mut_ptr());
                    supported(result::get_convolution_backward_filter_algorithm(
                        handle, x, y, c, w, room, count, to,
                    ))?;
                    first_suitable!(list, found, |algorithm| {
                        result::get_convolution_backward_filter_workspace_size(handle, x, y, c, w, algorithm)
                    })
                    .map(|(algorithm, workspace)| (Algorithm::Weight(algorithm), workspace))
                }
            }
        };
        Ok(chosen.map(|(algorithm, workspace)| Self { descriptors, algorithm, workspace }))
    }
}

impl Convolution {
    /// Whether cuDNN is asked at all: it has kernels of this layout for `f32` only, and knows no empty tensors.
    pub(crate) fn suits(&self, dtype: DType) -> bool {
        dtype == DType::F32 && [self.input, self.weight, self.output].as_flattened().iter().all(|&n| n > 0)
    }

    /// Does a pass if cuDNN has an algorithm for it, and says whether it had. Writes all of `out`.
    pub(crate) fn run(
        &self,
        device: &CudaDevice,
        pass: Pass,
        a: &Arg<'_>,
        b: &Arg<'_>,
        out: &mut Arg<'_>,
    ) -> Result<bool> {
        let [x, w, y] = [self.input, self.weight, self.output].map(|dims| dims.iter().product::<usize>());
        let (first, second, last) = match pass {
            Pass::Forward => (x, w, y),
            Pass::Data => (w, y, x),
            Pass::Weight => (x, y, w),
        };
        for (name, given, wanted) in
            [("first", a.elements(), first), ("second", b.elements(), second), ("last", out.elements(), last)]
        {
            if given != wanted || wanted > MOST_ELEMENTS {
                let problem = format!("the {name} buffer has {given} elements of {wanted}, or too many");
                return Err(Error::argument("convolution by cuDNN", problem));
            }
        }
        let (Arg::F32(a), Arg::F32(b), Arg::OutF32(out)) = (a, b, out) else {
            return Err(Error::argument("convolution by cuDNN", "the buffers are not all f32"));
        };
        let library = Library::of(device)?;
        let Some(plan) = library.plan(self, pass)? else { return Ok(false) };
        let Descriptors { input: x, weight: w, output: y, convolution: c } = &plan.descriptors;
        let (x, w, y, c) = (x.0, w.0, y.0, c.0);
        let stream = &library.stream;
        #[allow(unsafe_code, reason = "asks for memory without clearing it")]
        // SAFETY: only cuDNN reads it, after it wrote it.
        let mut workspace = unsafe { device.alloc::<u8>(plan.workspace.max(1)) }?;
        let (one, zero) = (1.0f32, 0.0f32);
        let (one, zero) = ((&raw const one).cast::<c_void>(), (&raw const zero).cast::<c_void>());
        let (a, _a) = a.device_ptr(stream);
        let (b, _b) = b.device_ptr(stream);
        let (out, _out) = out.device_ptr_mut(stream);
        let (room, _room) = workspace.device_ptr_mut(stream);
        let (a, b, out, room) =
            (a as *const c_void, b as *const c_void, out as *mut c_void, room as *mut c_void);
        let (handle, bytes) = (library.handle, plan.workspace);
        #[allow(unsafe_code, reason = "calls cuDNN")]
        // SAFETY: the buffers have the elements that the descriptors speak of, checked above, the workspace has the size
        // that was asked for, and all are used on the stream that they belong to.
        let done = unsafe {
            match plan.algorithm {
                Algorithm::Forward(how) => {
                    result::convolution_forward(handle, one, x, a, w, b, c, how, room, bytes, zero, y, out)
                }
                Algorithm::Data(how) => result::convolution_backward_data(
                    handle, one, w, a, y, b, c, how, room, bytes, zero, x, out,
                ),
                Algorithm::Weight(how) => result::convolution_backward_filter(
                    handle, one, x, a, y, b, c, how, room, bytes, zero, w, out,
                ),
            }
        };
        check(done)?;
        Ok(true)
    }
}
