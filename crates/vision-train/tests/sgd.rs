//! Trajectories of SGD against PyTorch.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use candle_core::{Device, Var};
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
