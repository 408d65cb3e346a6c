//! Trajectories of SGD against PyTorch.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use vision_core::FeatureMap;
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d};
use vision_core::ops::Conv2dArgs;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_train::ParamGroup;
use vision_train::optim::{Sgd, SgdConfig};

fn var(values: &[f64]) -> Var {
    Var::new(values, &Device::Cpu).unwrap()
}

fn values(var: &Var) -> Vec<f64> {
    var.to_vec1::<f64>().unwrap()
}

struct Problem {
    p: Var,
    q: Var,
    sgd: Sgd,
}

impl Problem {
    fn new(config: SgdConfig) -> Self {
        let (p, q) = (var(&[1.0, -2.0, 0.5]), var(&[0.25]));
        let group = |name: &str, var: &Var, lr_mult, weight_decay| ParamGroup {
            name: name.into(),
            params: vec![(name.into(), var.clone())],
            lr_mult,
            weight_decay,
        };
        let groups = vec![group("p", &p, 1.0, config.weight_decay), group("q", &q, 0.5, 0.0)];
        Self { sgd: Sgd::new(config, groups).unwrap(), p, q }
    }

    fn step(&mut self, i: usize) {
        let p = self.p.as_tensor();
        let loss = ((p.sqr().unwrap().sum_all().unwrap() * (0.5 * (i + 1) as f64)).unwrap()
            + (p.sum_all().unwrap() * self.q.reshape(()).unwrap()).unwrap())
        .unwrap();
        let mut store = loss.backward().unwrap();
        let grads = BTreeMap::from([
            ("p".to_owned(), store.remove(&self.p).unwrap()),
            ("q".to_owned(), store.remove(&self.q).unwrap()),
        ]);
        self.sgd.step(&grads, 1.0).unwrap();
    }
}

/// ```python
/// import torch
/// def run(wd, **kw):
///     p = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
///     q = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)
///     opt = torch.optim.SGD([dict(params=[p], weight_decay=wd),
///                            dict(params=[q], lr=0.05, weight_decay=0.0)], lr=0.1, **kw)
///     for i in range(4):
///         opt.zero_grad()
///         loss = (p * p).sum() * 0.5 * (i + 1) + (p.sum() * q).sum()
///         loss.backward()
///         opt.step()
///     print(p.tolist(), q.tolist())
/// run(0.0)
/// run(0.01, momentum=0.9)
/// run(0.01, momentum=0.9, dampening=0.5)
/// run(0.01, momentum=0.9, nesterov=True)
/// ```
#[test]
fn four_steps_equal_pytorch() {
    let base = SgdConfig { lr: 0.1, weight_decay: 0.01, momentum: 0.9, ..SgdConfig::default() };
    let cases = [
        (
            SgdConfig { momentum: 0.0, weight_decay: 0.0, ..base },
            [0.23173749999999999, -0.6754625, 0.0805375],
            0.34848125,
        ),
        (base, [-0.4326041181740001, 0.3884470289230001, -0.29576226032450004], 0.4799064062250001),
        (
            SgdConfig { dampening: 0.5, ..base },
            [-0.014707702046750135, -0.3537943940221248, -0.07122215070931259],
            0.40969349046562503,
        ),
        (
            SgdConfig { nesterov: true, ..base },
            [-0.45119039703836544, 0.42718859767613826, -0.30479389791928146],
            0.5593696556080725,
        ),
    ];
    for (config, p, q) in cases {
        let mut problem = Problem::new(config);
        for i in 0..4 {
            problem.step(i);
        }
        for (got, want) in values(&problem.p).iter().chain(&values(&problem.q)).zip(p.iter().chain([&q])) {
            assert!((got - want).abs() < 1e-14, "{config:?}: {got} is not {want}");
        }
    }
}

/// Weight decay takes biases and the parameters of normalisation too. The bias in front of a normalisation has no gradient
/// and moves by its decay alone.
///
/// ```python
/// f = lambda n, s: (torch.arange(n, dtype=torch.float64) * 7 + 3) % 11 / 11 - s
/// x, t = f(36, 0.4).reshape(3, 2, 3, 2), f(54, 0.5).reshape(3, 3, 3, 2)
/// conv, bn = torch.nn.Conv2d(2, 3, 1).double(), torch.nn.BatchNorm2d(3).double()
/// with torch.no_grad():
///     conv.weight.copy_(f(6, 0.3).reshape(3, 2, 1, 1)); conv.bias.copy_(f(3, 0.2)); bn.bias.copy_(f(3, 0.1))
/// params = [*conv.parameters(), *bn.parameters()]
/// opt = torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.05)
/// for _ in range(5):
///     opt.zero_grad(); (bn(conv(x)) - t).square().mean().backward(); opt.step()
/// for p in params: print(p.flatten().tolist())
/// ```
#[test]
fn five_steps_with_normalisation_equal_pytorch() {
    let numbers = |dims: &[usize], shift: f64| {
        let count: usize = dims.iter().product();
        let values: Vec<f64> = (0..count).map(|i| ((i * 7 + 3) % 11) as f64 / 11.0 - shift).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    };
    let params = ParamStore::new(Key::new(0), DType::F64, &Device::Cpu);
    let vb = params.var_builder();
    let conv = Conv2d::new(2, 3, [1, 1], Conv2dArgs::default(), true, vb.pp("conv")).unwrap();
    let bn = BatchNorm2d::new(3, &BatchNormConfig::default(), vb.pp("bn")).unwrap();
    for (name, dims, shift) in
        [("conv.weight", &[3, 2, 1, 1][..], 0.3), ("conv.bias", &[3], 0.2), ("bn.bias", &[3], 0.1)]
    {
        params.get(name).unwrap().set(&numbers(dims, shift)).unwrap();
    }
    let (x, target) = (numbers(&[3, 2, 3, 2], 0.4), numbers(&[3, 3, 3, 2], 0.5));
    let config = SgdConfig { lr: 0.1, momentum: 0.9, ..SgdConfig::default() };
    let mut sgd = Sgd::new(config, vec![ParamGroup::all(&params, 0.05)]).unwrap();
    for _ in 0..5 {
        let y = conv.forward(&FeatureMap::from_nchw(&x).unwrap()).unwrap();
        let y = bn.forward(&y, true).unwrap().to_nchw().unwrap();
        let grads = (y - &target).unwrap().sqr().unwrap().mean_all().unwrap().backward().unwrap();
        let by_name = params.trainable().into_iter().map(|(name, var)| {
            let grad = grads.get(&var).unwrap().clone();
            (name, grad)
        });
        sgd.step(&by_name.collect(), 1.0).unwrap();
    }
    for (name, want) in [
        (
            "conv.weight",
            &[
                -0.028709257242661858,
                0.569094900504138,
                0.30100276864461467,
                0.12569722719939122,
                0.4958829925218611,
                0.10276485959846256,
            ][..],
        ),
        ("conv.bias", &[0.06800374166340899, 0.663036481218246, 0.3230177729011923]),
        ("bn.weight", &[0.34707734771324983, 0.18683228062318874, 0.11203281511198701]),
        ("bn.bias", &[0.02477125711662414, 0.10506733323855447, 0.05918386116888023]),
    ] {
        let got: Vec<f64> = params.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-10, "{name}: {got} is not {want}");
        }
    }
}

#[test]
fn a_restored_optimiser_goes_on_exactly() {
    let config = SgdConfig { momentum: 0.9, weight_decay: 0.01, ..SgdConfig::default() };
    let mut whole = Problem::new(config);
    let mut first = Problem::new(config);
    for i in 0..2 {
        whole.step(i);
        first.step(i);
    }
    let mut second = Problem::new(config);
    second.p.set(&first.p.as_detached_tensor()).unwrap();
    second.q.set(&first.q.as_detached_tensor()).unwrap();
    second.sgd.restore(&first.sgd.state().unwrap()).unwrap();
    for i in 2..4 {
        whole.step(i);
        second.step(i);
    }
    assert_eq!(values(&whole.p), values(&second.p));
    assert_eq!(values(&whole.q), values(&second.q));
}

#[test]
fn parameters_without_a_gradient_stay() {
    let mut problem = Problem::new(SgdConfig { momentum: 0.9, weight_decay: 0.1, ..SgdConfig::default() });
    problem.sgd.step(&BTreeMap::new(), 1.0).unwrap();
    assert_eq!(values(&problem.p), [1.0, -2.0, 0.5]);
    assert!(problem.sgd.state().unwrap().tensors.is_empty());
}

#[test]
fn wrong_groups_constants_and_states_are_errors() {
    let p = var(&[1.0]);
    let group = ParamGroup {
        name: "g".into(),
        params: vec![("p".into(), p.clone()), ("p".into(), p.clone())],
        lr_mult: 1.0,
        weight_decay: 0.0,
    };
    assert!(Sgd::new(SgdConfig::default(), vec![group]).unwrap_err().to_string().contains("`p`"));
    let config = SgdConfig { nesterov: true, lr: -1.0, ..SgdConfig::default() };
    let message = Sgd::new(config, vec![]).unwrap_err().to_string();
    assert!(message.contains("sgd.lr") && message.contains("sgd.nesterov"), "{message}");

    let mut problem = Problem::new(SgdConfig { momentum: 0.9, ..SgdConfig::default() });
    problem.step(0);
    let state = problem.sgd.state().unwrap();
    let mut other = Sgd::new(SgdConfig::default(), vec![]).unwrap();
    assert!(other.restore(&state).unwrap_err().to_string().contains("p.momentum_buffer"));
}
