use candle_nn::init::{DEFAULT_KAIMING_NORMAL, DEFAULT_KAIMING_UNIFORM};

use super::*;

fn store(seed: u64) -> ParamStore {
    ParamStore::new(Key::new(seed), DType::F32, &Device::Cpu)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn second_use_is_the_same_variable() {
    let store = store(1);
    let vb = store.var_builder().pp("a").pp("b");
    let first = vb.get_with_hints((2, 3), "weight", DEFAULT_KAIMING_NORMAL).unwrap();
    let second = vb.get_with_hints((2, 3), "weight", Init::Const(9.)).unwrap();
    assert_eq!(first.id(), second.id());
    assert!(first.is_variable());
    assert_eq!(store.get("a.b.weight").unwrap().id(), first.id());
    assert!(vb.contains_tensor("weight") && !vb.contains_tensor("bias"));
    assert_eq!(vb.get_unchecked("weight").unwrap().id(), first.id());
    assert!(vb.get_unchecked("bias").is_err());

    let error = vb.get((3, 2), "weight").unwrap_err().to_string();
    assert!(error.contains("a.b.weight") && error.contains("[2, 3]") && error.contains("[3, 2]"), "{error}");
    assert!(vb.to_dtype(DType::F64).get((2, 3), "weight").is_err());
}

#[test]
fn values_depend_on_seed_and_name_not_on_order() {
    let (a, b, c) = (store(1), store(1), store(2));
    let get = |s: &ParamStore, name: &str| {
        s.var_builder().get_with_hints((16, 8), name, DEFAULT_KAIMING_UNIFORM).unwrap()
    };
    let (x, y) = (get(&a, "x"), get(&a, "y"));
    let (y2, x2) = (get(&b, "y"), get(&b, "x"));
    assert_eq!(values(&x), values(&x2));
    assert_eq!(values(&y), values(&y2));
    assert_ne!(values(&x), values(&y));
    assert_ne!(values(&x), values(&get(&c, "x")));
    let bound = (6_f32 / 8.).sqrt();
    assert!(values(&x).iter().all(|v| v.abs() <= bound) && values(&x).iter().any(|v| v.abs() > bound / 2.));
}

#[test]
fn hints_are_honoured() {
    let store = store(3);
    let vb = store.var_builder();
    let get = |name: &str, hint: Init| values(&vb.get_with_hints((64, 32, 3, 3), name, hint).unwrap());
    let moments = |v: &[f32]| {
        let n = v.len() as f64;
        let mean = v.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        (mean, (v.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n).sqrt())
    };
    assert!(get("c", Init::Const(0.1)).iter().all(|v| *v == 0.1));
    assert!(get("z", Init::default()).iter().all(|v| *v == 0.));
    let (mean, std) = moments(&get("n", Init::Randn { mean: 2., stdev: 0.5 }));
    assert!((mean - 2.).abs() < 0.02 && (std - 0.5).abs() < 0.02, "{mean} {std}");
    let (mean, std) = moments(&get("u", Init::Uniform { lo: 1., up: 3. }));
    assert!((mean - 2.).abs() < 0.03 && (std - 3_f64.sqrt() / 3.).abs() < 0.02, "{mean} {std}");
    let (mean, std) = moments(&get("k", DEFAULT_KAIMING_NORMAL));
    assert!(mean.abs() < 0.01 && (std - (2. / 288_f64).sqrt()).abs() < 0.002, "{mean} {std}");
    assert!(vb.get_with_hints((4, 0), "empty", DEFAULT_KAIMING_NORMAL).is_err());
}

#[test]
fn frozen_tensors_are_outside_of_the_graph() {
    let store = store(4);
    store.freeze("layer1.").unwrap();
    let vb = store.var_builder();
    let frozen = vb.get_with_hints(2, "layer1.0.weight", Init::Const(2.)).unwrap();
    let stats = vb.get_with_hints(2, "layer1.0.running_var", Init::Const(1.)).unwrap();
    let free = vb.get_with_hints(2, "layer10.weight", Init::Const(3.)).unwrap();
    vb.get_with_hints(2, "layer10.running_mean", Init::Const(0.)).unwrap();
    assert!(!frozen.track_op() && !stats.track_op() && free.track_op());
    let names = |v: Vec<(String, Var)>| v.into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(names(store.trainable()), ["layer10.weight"]);
    assert_eq!(names(store.buffers()), ["layer1.0.running_var", "layer10.running_mean"]);
    assert_eq!(store.all().len(), 4);
    assert_eq!(store.num_parameters(), 4);
    let error = store.freeze("layer10").unwrap_err().to_string();
    assert!(error.contains("layer10."), "{error}");
    store.freeze("layer1.0").unwrap();
}

#[test]
fn state_dict_round_trip_reaches_models_that_are_built() {
    let (a, b) = (store(5), store(6));
    b.freeze("f").unwrap();
    let build = |s: &ParamStore| {
        let vb = s.var_builder();
        let hint = DEFAULT_KAIMING_NORMAL;
        let counter = vb.get_with_hints_dtype((), "bn.num_batches_tracked", Init::Const(7.), DType::I64);
        (
            vb.get_with_hints((2, 2), "w", hint).unwrap(),
            vb.get_with_hints(3, "f", hint).unwrap(),
            counter.unwrap(),
        )
    };
    let (from, to) = (build(&a), build(&b));
    let mut dict = a.state_dict().unwrap();
    assert_eq!(dict.names().collect::<Vec<_>>(), ["bn.num_batches_tracked", "f", "w"]);
    dict.insert("w", Array::from_f64([2, 2], &[1., 2., 3., 4.]).unwrap());
    dict.insert("extra", Array::from_f32([1], &[0.]).unwrap());
    dict.insert("bn.num_batches_tracked", Array::from_u32([], &[3]).unwrap());
    let report = b.load(&dict).unwrap();
    assert_eq!(report.loaded, ["bn.num_batches_tracked", "f", "w"]);
    assert_eq!(report.unexpected, ["extra"]);
    assert_eq!(values(&to.0), [1., 2., 3., 4.]);
    assert_eq!(values(&to.1), values(&from.1));
    assert_eq!(to.2.to_scalar::<i64>().unwrap(), 3);
}

#[test]
fn loading_leaves_misfits_alone() {
    let store = store(7);
    let vb = store.var_builder();
    let w = vb.get_with_hints((2, 2), "w", Init::Const(1.)).unwrap();
    let count = vb.get_with_hints_dtype(2, "n", Init::Const(1.), DType::U32).unwrap();
    let mut dict = StateDict::new();
    dict.insert("w", Array::from_f32([4], &[5.; 4]).unwrap());
    let report = store.load(&dict).unwrap();
    assert_eq!((report.mismatched.len(), report.missing.len()), (1, 1));
    assert!(report.check().is_err());
    assert_eq!(values(&w), [1.; 4]);

    // A failed conversion changes nothing, not even the tensors that do fit.
    dict.insert("w", Array::from_f32([2, 2], &[5.; 4]).unwrap());
    dict.insert("n", Array::from_f32([2], &[0.5, 1.]).unwrap());
    assert!(matches!(store.load(&dict), Err(Error::Weights(_))));
    assert_eq!(values(&w), [1.; 4]);
    assert_eq!(count.to_vec1::<u32>().unwrap(), [1, 1]);
}
