use std::time::Duration;

use candle_core::Device;

use super::*;
use crate::dist::{CollectiveError, Single, Threads};
use crate::nn::{BatchNorm2d, BatchNormConfig};
use crate::params::ParamStore;
use crate::rng::Key;
use crate::testing::assert_close;

const CPU: Device = Device::Cpu;
const PATIENT: Duration = Duration::from_secs(60);

fn normal(name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let values = Key::new(11).fold(name).normal(shape, 0.3, 1.5, DType::F64, &CPU).unwrap();
    values.to_dtype(dtype).unwrap()
}

/// One batch: pictures, residual and the gradient from above, `(N, H, W, C)`; weight and bias.
#[derive(Clone)]
struct Batch {
    maps: [Tensor; 3],
    weight: Tensor,
    bias: Tensor,
}

impl Batch {
    fn new(shape: [usize; 4], dtype: DType) -> Self {
        let maps = ["x", "residual", "upstream"].map(|name| normal(name, &shape, dtype));
        let [weight, bias] = ["weight", "bias"].map(|name| normal(name, &shape[3..], dtype));
        Self { maps, weight, bias }
    }

    fn part(&self, from: usize, len: usize) -> Self {
        let maps = self.maps.each_ref().map(|map| map.narrow(0, from, len).unwrap().contiguous().unwrap());
        Self { maps, ..self.clone() }
    }
}

/// What a forward and a backward pass leave behind.
struct Outcome {
    y: Tensor,
    dx: Tensor,
    /// Of the residual, where there is one.
    dr: Option<Tensor>,
    dw: Tensor,
    db: Tensor,
    running: [Tensor; 2],
}

impl Outcome {
    fn tensors(&self) -> Vec<Tensor> {
        let all = [&self.y, &self.dx, &self.dw, &self.db, &self.running[0], &self.running[1]];
        all.into_iter().chain(&self.dr).cloned().collect()
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        let bits =
            |t: &Tensor| to_f64(&t.flatten_all().unwrap()).unwrap().into_iter().map(f64::to_bits).collect();
        self.tensors().iter().map(bits).collect()
    }
}

fn step(batch: &Batch, fused: bool, collective: Option<&Arc<dyn Collective>>) -> Result<Outcome> {
    let [x, residual] = [&batch.maps[0], &batch.maps[1]].map(|map| Var::from_tensor(map).unwrap());
    let [weight, bias] = [&batch.weight, &batch.bias].map(|v| Var::from_tensor(&v.copy().unwrap()).unwrap());
    let dtype = weight.dtype();
    let mean = Var::zeros(weight.dims(), dtype, &CPU)?;
    let var = Var::ones(weight.dims(), dtype, &CPU)?;
    let stats = BatchStats { running_mean: &mean, running_var: &var };
    let args = BatchNormArgs { training: true, relu: fused, ..BatchNormArgs::default() };
    let map = |var: &Var| FeatureMap::from_nhwc(var.as_tensor().clone());
    let input = map(&x)?;
    let residual_map = map(&residual)?;
    let residual_map = fused.then_some(&residual_map);
    let y = match collective {
        None => batch_norm_nhwc(&input, &weight, &bias, stats, &args, residual_map)?,
        Some(collective) => {
            let ranks = BatchNormRanks { collective, name: "bn" };
            sync_batch_norm_nhwc(&input, &weight, &bias, stats, &args, residual_map, ranks)?
        }
    };
    let grads = (y.nhwc() * &batch.maps[2])?.sum_all()?.backward()?;
    let of = |var: &Var| grads.get(var).unwrap().clone();
    Ok(Outcome {
        y: y.nhwc().detach(),
        dx: of(&x),
        dr: fused.then(|| of(&residual)),
        dw: of(&weight),
        db: of(&bias),
        running: [mean.as_detached_tensor(), var.as_detached_tensor()],
    })
}

fn shared(ranks: Threads) -> Arc<dyn Collective> {
    Arc::new(ranks)
}

/// [`step`] on ranks with `sizes` pictures each.
fn ranks(batch: &Batch, sizes: &[usize], fused: bool) -> Vec<Outcome> {
    Threads::run(sizes.len(), PATIENT, |ranks| {
        let rank = ranks.rank();
        let part = batch.part(sizes[..rank].iter().sum(), sizes[rank]);
        step(&part, fused, Some(&shared(ranks)))
    })
    .into_iter()
    .map(|result| result.expect("no rank panics").unwrap())
    .collect()
}

/// Shards of eight pictures.
const SHARDS: [&[usize]; 10] = [
    &[8],
    &[4, 4],
    &[1, 7],
    &[0, 8],
    &[3, 3, 2],
    &[6, 1, 1],
    &[5, 0, 3],
    &[0, 0, 8],
    &[2, 2, 2, 2],
    &[0, 5, 0, 3],
];

#[test]
fn shards_equal_the_whole_batch() {
    for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
        for (channels, fused) in [(3, false), (33, true)] {
            let batch = Batch::new([8, 3, 5, channels], dtype);
            let want = step(&batch, fused, None).unwrap();
            for sizes in SHARDS {
                let parts = ranks(&batch, sizes, fused);
                let cat = |f: fn(&Outcome) -> &Tensor| {
                    Tensor::cat(&parts.iter().map(f).collect::<Vec<_>>(), 0).unwrap()
                };
                let total = |f: fn(&Outcome) -> &Tensor| {
                    parts.iter().map(f).cloned().reduce(|a, b| (a + b).unwrap()).unwrap()
                };
                let close = |got: &Tensor, want: &Tensor| {
                    let values = to_f64(&want.flatten_all().unwrap()).unwrap();
                    let largest = values.into_iter().fold(1.0, |top: f64, value| top.max(value.abs()));
                    assert_close(got, want, 0.0, tolerance * largest).unwrap();
                };
                close(&cat(|o| &o.y), &want.y);
                close(&cat(|o| &o.dx), &want.dx);
                if let Some(dr) = &want.dr {
                    close(&cat(|o| o.dr.as_ref().unwrap()), dr);
                }
                close(&total(|o| &o.dw), &want.dw);
                close(&total(|o| &o.db), &want.db);
                for part in &parts {
                    close(&part.running[0], &want.running[0]);
                    close(&part.running[1], &want.running[1]);
                    assert_eq!(part.bits()[4..6], parts[0].bits()[4..6], "ranks differ");
                }
            }
        }
    }
}

#[test]
fn timing_and_threads_do_not_change_a_bit() {
    let batch = Batch::new([8, 40, 40, 33], DType::F32);
    let run = |pool: usize| {
        let results = Threads::run(3, PATIENT, |ranks| {
            let (from, len) = [(0, 1), (1, 5), (6, 2)][ranks.rank()];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(pool).build().unwrap();
            // Each rank blocks a thread of its own pool, nobody else's.
            pool.install(|| step(&batch.part(from, len), true, Some(&shared(ranks))).unwrap().bits())
        });
        results.into_iter().map(|result| result.expect("no rank panics")).collect::<Vec<_>>()
    };
    let want = run(1);
    assert!(run(1) == want && run(2) == want);
    // On the shared pool, from threads outside of it.
    let sizes = [1, 5, 2];
    let again: Vec<_> = ranks(&batch, &sizes, true).iter().map(Outcome::bits).collect();
    assert!(again == want);
}

#[test]
fn a_rank_alone_gets_the_same_bits_as_without() {
    for dtype in [DType::F32, DType::F64] {
        let batch = Batch::new([4, 5, 3, 7], dtype);
        let want = step(&batch, true, None).unwrap().bits();
        let single: Arc<dyn Collective> = Arc::new(Single);
        assert_eq!(step(&batch, true, Some(&single)).unwrap().bits(), want);
        assert_eq!(ranks(&batch, &[0, 4], true)[1].bits(), want);
    }
}

#[test]
fn large_means_do_not_cancel() {
    // Deviations within a rank are a small part of its mean, and means may differ between ranks.
    for (offset, dtype) in
        [([3000.0, 3000.0], DType::F32), ([1e6, 1e6], DType::F64), ([1e6, 3000.0], DType::F64)]
    {
        let parts = [0, 1].map(|rank| {
            let x = normal(["a", "b"][rank], &[3, 4, 4, 2], DType::F64);
            x.affine(if dtype == DType::F32 { 1.0 } else { 1e-3 }, offset[rank])
                .unwrap()
                .to_dtype(dtype)
                .unwrap()
        });
        let values = |channel: usize| -> Vec<f64> {
            let map = Tensor::cat(&parts, 0).unwrap().narrow(3, channel, 1).unwrap();
            to_f64(&map.flatten_all().unwrap()).unwrap()
        };
        let running = Threads::run(2, PATIENT, |ranks| {
            let rank = ranks.rank();
            let mut batch = Batch::new([3, 4, 4, 2], dtype);
            batch.maps[0] = parts[rank].clone();
            to_f64(&step(&batch, false, Some(&shared(ranks))).unwrap().running[1]).unwrap()
        });
        for got in running {
            for (channel, got) in got.expect("no rank panics").into_iter().enumerate() {
                let values = values(channel);
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let var =
                    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0);
                // The running variance was 1 and moved by a tenth.
                let got = (got - 0.9) / 0.1;
                assert!((got - var).abs() < 1e-3 * var + 1e-15 / 0.1, "{got} {var}");
            }
        }
    }
}

#[test]
fn a_layer_keeps_the_variance_it_is_told_to() {
    // 1 on one rank, 2, 3 and 6 on the other: 3.5 biased, 14 / 3 unbiased; the running variance was 1.
    for (running_var, want) in [(RunningVar::Biased, 1.25), (RunningVar::Unbiased, 0.9 + 1.4 / 3.0)] {
        let results = Threads::run(2, PATIENT, |ranks| {
            let values = [&[1.0][..], &[2.0, 3.0, 6.0]][ranks.rank()];
            let x = Tensor::from_slice(values, (1, values.len(), 1, 1), &CPU).unwrap();
            let config = BatchNormConfig {
                running_var,
                collective: Some(shared(ranks)),
                ..BatchNormConfig::default()
            };
            let params = ParamStore::new(Key::new(0), DType::F64, &CPU);
            let layer = BatchNorm2d::new(1, &config, params.var_builder()).unwrap();
            layer.forward(&FeatureMap::from_nhwc(x).unwrap(), true).unwrap();
            to_f64(params.get("running_var").unwrap().as_tensor()).unwrap()[0]
        });
        for got in results {
            let got = got.expect("no rank panics");
            assert!((got - want).abs() < 1e-12, "{running_var:?}: {got}");
        }
    }
}

#[test]
fn a_world_without_values_leaves_the_statistics_alone() {
    let batch = Batch::new([0, 3, 5, 2], DType::F64);
    for outcome in ranks(&batch, &[0, 0], false) {
        assert_eq!(outcome.y.dims(), [0, 3, 5, 2]);
        assert_eq!(outcome.dx.dims(), [0, 3, 5, 2]);
        assert_eq!(to_f64(&outcome.dw).unwrap(), [0.0; 2]);
        assert_eq!(to_f64(&outcome.running[0]).unwrap(), [0.0; 2]);
        assert_eq!(to_f64(&outcome.running[1]).unwrap(), [1.0; 2]);
    }
}

#[test]
fn one_value_per_rank_is_enough_and_one_in_all_is_not() {
    let batch = Batch::new([2, 1, 1, 4], DType::F64);
    let want = step(&batch, false, None).unwrap();
    for (rank, got) in ranks(&batch, &[1, 1], false).iter().enumerate() {
        assert_close(&got.y, &want.y.narrow(0, rank, 1).unwrap(), 1e-12, 1e-12).unwrap();
    }
    for result in Threads::run(3, PATIENT, |ranks| {
        let part = batch.part(0, usize::from(ranks.rank() == 1));
        step(&part, false, Some(&shared(ranks))).map(drop)
    }) {
        let error = result.expect("no rank panics").unwrap_err().to_string();
        assert!(error.contains("more than one value per channel"), "{error}");
    }
}

#[test]
fn evaluation_and_untracked_inputs_do_not_meet() {
    // The other rank does nothing, so any call would fail.
    let result = &Threads::run(2, PATIENT, |ranks| {
        let collective = shared(ranks);
        let batch = Batch::new([2, 2, 2, 3], DType::F64);
        let map = FeatureMap::from_nhwc(batch.maps[0].clone()).unwrap();
        let weight = Var::from_tensor(&batch.weight).unwrap();
        let [mean, var] = [0.5, 2.0].map(|v| Var::from_tensor(&Tensor::full(v, 3, &CPU).unwrap()).unwrap());
        let stats = BatchStats { running_mean: &mean, running_var: &var };
        let ranks = BatchNormRanks { collective: &collective, name: "bn" };
        let norm = |training: bool| {
            let args = BatchNormArgs { training, ..BatchNormArgs::default() };
            sync_batch_norm_nhwc(&map, &weight, &batch.bias, stats, &args, None, ranks).unwrap()
        };
        let y = norm(true);
        if collective.rank() == 1 {
            return;
        }
        assert!(y.nhwc().sum_all().unwrap().backward().unwrap().get(&weight).is_some());
        assert!(norm(false).nhwc().sum_all().unwrap().backward().unwrap().get(&weight).is_some());
    });
    assert!(result.iter().all(std::thread::Result::is_ok));
}

#[test]
fn ranks_that_differ_or_leave_fail_with_a_type() {
    for result in Threads::run(2, PATIENT, |ranks| {
        let batch = Batch::new([2, 2, 2, 3 + ranks.rank()], DType::F64);
        step(&batch, false, Some(&shared(ranks))).map(drop)
    }) {
        let error = result.expect("no rank panics").unwrap_err().to_string();
        assert!(error.starts_with("batch_norm: input") && error.contains("`bn` has"), "{error}");
    }
    // Rank 1 goes through the forward pass only.
    let results = Threads::run(2, PATIENT, |ranks| {
        let collective = shared(ranks);
        let batch = Batch::new([2, 2, 2, 3], DType::F64);
        if collective.rank() == 1 {
            let moments = Moments::new(8.0, vec![0.0; 3], vec![1.0; 3], 0.0);
            sync::moments(collective.as_ref(), "bn", Some(&moments), 3, 0.0).unwrap();
            return Ok(());
        }
        step(&batch, false, Some(&collective)).map(drop)
    });
    let error = results.into_iter().next().unwrap().expect("no rank panics").unwrap_err();
    let Error::Collective(CollectiveError::Gone { tensor, gone, .. }) = error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), gone), ("bn.gradient_sums", vec![1]));
}
