//! State, configuration and errors of Adam and AdamW. Their trajectories are golden cases.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use vision_train::ParamGroup;
use vision_train::optim::{Adam, AdamConfig, Optimiser, OptimiserConfig};
use vision_weights::Array;

fn var(values: &[f64]) -> Var {
    Var::new(values, &Device::Cpu).unwrap()
}

struct Problem {
    vars: BTreeMap<String, Var>,
    optimiser: Optimiser,
}

impl Problem {
    fn new(config: OptimiserConfig) -> Self {
        let vars = BTreeMap::from([
            ("a.weight".to_owned(), var(&[1.0, -2.0, 0.5])),
            ("a.bias".to_owned(), var(&[0.25])),
        ]);
        let group = |name: &str, lr_mult, weight_decay| ParamGroup {
            name: name.into(),
            params: vec![(name.into(), vars[name].clone())],
            lr_mult,
            weight_decay,
        };
        let groups = vec![group("a.weight", 1.0, config.weight_decay()), group("a.bias", 2.0, 0.0)];
        Self { optimiser: Optimiser::new(config, groups).unwrap(), vars }
    }

    /// The bias has a gradient at odd steps only.
    fn step(&mut self, i: usize) {
        let mut grads = BTreeMap::new();
        for (name, var) in &self.vars {
            if name == "a.weight" || i % 2 == 1 {
                grads.insert(name.clone(), var.affine(0.5 + i as f64, 0.125).unwrap());
            }
        }
        self.optimiser.step(&grads, 0.9).unwrap();
    }

    fn values(&self) -> Vec<Vec<f64>> {
        self.vars.values().map(|var| var.to_vec1().unwrap()).collect()
    }
}

fn configs() -> [OptimiserConfig; 3] {
    [
        AdamConfig { weight_decay: 0.1, lr: 0.05, ..AdamConfig::default() }.into(),
        AdamConfig { amsgrad: true, betas: [0.5, 0.6], ..AdamConfig::default() }.into(),
        AdamConfig::adamw().into(),
    ]
}

#[test]
fn a_restored_optimiser_goes_on_exactly() {
    for config in configs() {
        let (mut whole, mut first, mut second) =
            (Problem::new(config), Problem::new(config), Problem::new(config));
        for i in 0..3 {
            whole.step(i);
            first.step(i);
        }
        for (name, var) in &second.vars {
            var.set(&first.vars[name].as_detached_tensor()).unwrap();
        }
        let state = first.optimiser.state().unwrap();
        assert_eq!(state.tensors["a.weight.step"].to_u64().unwrap(), [3]);
        assert_eq!(state.tensors["a.bias.step"].to_u64().unwrap(), [1]);
        second.optimiser.restore(&state).unwrap();
        assert_eq!(second.optimiser.state().unwrap().tensors, state.tensors);
        for i in 3..6 {
            whole.step(i);
            second.step(i);
        }
        assert_eq!(whole.values(), second.values(), "{config:?}");
    }
}

#[test]
fn the_first_step_has_the_length_of_the_rate() {
    // Whatever the size of the gradient: the averages are corrected.
    let mut problem = Problem::new(AdamConfig { lr: 0.01, ..AdamConfig::default() }.into());
    problem.step(0);
    let moved = 1.0 - problem.vars["a.weight"].to_vec1::<f64>().unwrap()[0];
    assert!((moved - 0.01 * 0.9).abs() < 1e-9, "{moved}");
}

#[test]
fn parameters_without_a_gradient_stay() {
    let mut problem = Problem::new(AdamConfig::adamw().into());
    let before = problem.values();
    problem.optimiser.step(&BTreeMap::new(), 1.0).unwrap();
    assert_eq!(problem.values(), before);
    assert!(problem.optimiser.state().unwrap().tensors.is_empty());
}

#[test]
fn wrong_constants_gradients_and_states_are_errors() {
    let config =
        AdamConfig { lr: 0.0, betas: [0.9, 1.0], eps: -1.0, weight_decay: f64::NAN, ..AdamConfig::default() };
    let message = Adam::new(config, vec![]).unwrap_err().to_string();
    for key in ["adam.lr", "adam.betas", "adam.eps", "adam.weight_decay"] {
        assert!(message.contains(key), "{message}");
    }
    let config = AdamConfig { lr: f64::INFINITY, ..AdamConfig::adamw() };
    assert!(Adam::new(config, vec![]).unwrap_err().to_string().contains("adam.lr"));

    let mut problem = Problem::new(AdamConfig::default().into());
    let grads = BTreeMap::from([("a.bias".to_owned(), Tensor::new(&[1.0, 2.0], &Device::Cpu).unwrap())]);
    let message = problem.optimiser.step(&grads, 1.0).unwrap_err().to_string();
    assert!(message.contains("gradient of a.bias"), "{message}");

    problem.step(1);
    let good = problem.optimiser.state().unwrap();
    let mut refused = |key: &str, array: Option<Array>| {
        let mut state = good.clone();
        match array {
            Some(array) => drop(state.insert(key, array)),
            None => drop(state.tensors.remove(key)),
        }
        let message = problem.optimiser.restore(&state).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    };
    refused("a.bias.exp_avg", None);
    refused("a.bias.step", None);
    refused("a.bias.exp_avg_sq", Some(Array::from_f64([2], &[0.0, 0.0]).unwrap()));
    refused("a.bias.max_exp_avg_sq", Some(Array::from_f64([1], &[0.0]).unwrap()));
    refused("b.exp_avg", Some(Array::from_f64([1], &[0.0]).unwrap()));
    assert_eq!(problem.optimiser.state().unwrap().tensors, good.tensors);
}

#[test]
fn a_configuration_chooses_by_kind() {
    let parse = |text: &str| toml::from_str::<OptimiserConfig>(text);
    let config =
        parse("kind = \"adam\"\nlr = 0.5\nweight_decay = 0.01\ndecoupled_weight_decay = true\n").unwrap();
    assert_eq!(config, AdamConfig { lr: 0.5, ..AdamConfig::adamw() }.into());
    assert_eq!((config.lr(), config.weight_decay()), (0.5, 0.01));
    assert_eq!(parse("kind = \"adam\"\n").unwrap().weight_decay(), 0.0);
    assert_eq!(parse("kind = \"sgd\"\nmomentum = 0.9\n").unwrap().lr(), 0.1);
    assert!(parse("kind = \"adam\"\nmomentum = 0.9\n").unwrap_err().to_string().contains("momentum"));
    assert_eq!(parse("kind = \"adam\"\neps = -1.0\n").unwrap().problems("optimiser").len(), 1);
}
