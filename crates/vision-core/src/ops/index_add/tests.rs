use candle_core::Var;
use proptest::prelude::*;

use super::*;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

fn random(name: &str, dims: &[usize]) -> Tensor {
    Key::new(2).fold(name).normal(dims, 0., 1., DType::F64, &Device::Cpu).unwrap()
}

fn index(rows: u32, dims: &[usize]) -> Tensor {
    Key::new(3).below(rows, dims, &Device::Cpu).unwrap()
}

#[test]
fn repeated_rows_add_up() {
    let input = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
    let source = Tensor::new(&[[1_f32, 2.], [10., 20.], [100., 200.]], &Device::Cpu).unwrap();
    let rows = Tensor::new(&[2_u32, 0, 2], &Device::Cpu).unwrap();
    let got = index_add(&input, &rows, &source).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(got, [[10., 20.], [0., 0.], [101., 202.]]);
    let each = Tensor::new(&[[2_u32, 0], [2, 1], [0, 1]], &Device::Cpu).unwrap();
    let got = scatter_add(&input, &each, &source).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(got, [[100., 2.], [0., 220.], [11., 0.]]);
    // Narrower than the input: the last column stays.
    let narrow = scatter_add(&input, &each.narrow(1, 0, 1).unwrap(), &source.narrow(1, 0, 1).unwrap());
    assert_eq!(narrow.unwrap().to_vec2::<f32>().unwrap(), [[100., 0.], [0., 0.], [11., 0.]]);
}

#[test]
fn gradients_of_input_and_source() {
    for (input, source) in [(vec![4, 3], vec![6, 3]), (vec![2, 3, 2], vec![5, 3, 2]), (vec![3], vec![4])] {
        let inputs = [random("x", &input), random("s", &source)];
        let i = index(input[0] as u32, &source[..1]);
        gradcheck(|t| index_add(&t[0], &i, &t[1]), &inputs, 1e-6, 1e-8).unwrap();
        let i = index(input[0] as u32, &source);
        gradcheck(|t| scatter_add(&t[0], &i, &t[1]), &inputs, 1e-6, 1e-8).unwrap();
    }
    let inputs = [random("x", &[3, 4, 5]), random("s", &[7, 2, 3])];
    let i = index(3, &[7, 2, 3]);
    gradcheck(|t| scatter_add(&t[0], &i, &t[1]), &inputs, 1e-6, 1e-8).unwrap();
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    let (x, s) = (Var::from_tensor(&random("x", &[3, 2])).unwrap(), random("s", &[4, 2]));
    let grads = index_add(&x, &index(3, &[4]), &s).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some() && grads.get(&s).is_none());
}

#[test]
fn large_inputs_do_not_depend_on_threads() {
    let (x, s) = (random("x", &[101, 40]), random("s", &[3000, 40]));
    let (i, each) = (index(101, &[3000]), index(101, &[3000, 40]));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (index_add(&x, &i, &s).unwrap(), scatter_add(&x, &each, &s).unwrap()))
    };
    let (one, three) = (run(1), run(3));
    assert_close(&one.0, &three.0, 0., 0.).unwrap();
    assert_close(&one.1, &three.1, 0., 0.).unwrap();
    let want = x.index_add(&i, &s, 0).unwrap();
    assert_close(&one.0, &want, 1e-12, 1e-12).unwrap();
}

#[test]
fn whole_rows_are_the_same_either_way() {
    let (x, s, i) = (random("x", &[11, 2, 3]), random("s", &[40, 2, 3]), index(11, &[40]));
    let each = i.reshape((40, 1, 1)).unwrap().broadcast_as((40, 2, 3)).unwrap();
    let (x, s) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&s).unwrap());
    let whole = index_add(&x, &i, &s).unwrap();
    let elements = scatter_add(&x, &each, &s).unwrap();
    assert_close(&whole, &elements, 0., 0.).unwrap();
    let gradient = |y: &Tensor| {
        let loss = y.sqr().unwrap().sum_all().unwrap();
        loss.backward().unwrap().get(&s).unwrap().clone()
    };
    assert_close(&gradient(&whole), &gradient(&elements), 0., 0.).unwrap();
    let rows = i.to_vec1::<u32>().unwrap();
    let moved: Vec<u32> = rows.iter().flat_map(|&row| [row + 5; 6]).collect();
    let moved = Tensor::from_vec(moved, (40, 2, 3), &Device::Cpu).unwrap();
    let problem = scatter_add(&x, &moved, &s).unwrap_err().to_string();
    let at = rows.iter().position(|&row| row > 5).unwrap();
    assert!(problem.contains(&format!("at position {} is not", at * 6)), "{problem}");
}

#[test]
fn strided_and_empty_inputs() {
    let (x, s) = (random("x", &[5, 4]), random("s", &[5, 3]));
    let i = index(4, &[3]);
    let want =
        index_add(&x.t().unwrap().contiguous().unwrap(), &i, &s.t().unwrap().contiguous().unwrap()).unwrap();
    assert_close(&index_add(&x.t().unwrap(), &i, &s.t().unwrap()).unwrap(), &want, 0., 0.).unwrap();
    let none = Var::zeros((0, 4), DType::F64, &Device::Cpu).unwrap();
    let y = index_add(&x.narrow(1, 0, 4).unwrap(), &index(1, &[0]), &none).unwrap();
    assert_close(&y, &x, 0., 0.).unwrap();
    assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&none).unwrap().dims(), [0, 4]);
    let flat = Tensor::zeros((3, 0), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(index_add(&flat, &index(3, &[3]), &flat).unwrap().dims(), [3, 0]);
    assert_eq!(scatter_add(&x, &index(1, &[2, 0]), &flat.narrow(0, 0, 2).unwrap()).unwrap().dims(), [5, 4]);
}

#[test]
fn wrong_arguments_are_named() {
    let (x, s) = (random("x", &[3, 2]), random("s", &[4, 2]));
    let text = |i: &Tensor, s: &Tensor| index_add(&x, i, s).unwrap_err().to_string();
    let beyond = Tensor::new(&[0_u32, 1, 3, 0], &Device::Cpu).unwrap();
    assert_eq!(text(&beyond, &s), "index_add: index: 3 at position 2 is not one of the 3 rows");
    assert!(text(&index(3, &[3]), &s).starts_with("index_add: source"));
    assert!(text(&index(3, &[4, 2]), &s).starts_with("index_add: index"));
    assert!(text(&index(3, &[4]).to_dtype(DType::I64).unwrap(), &s).starts_with("index_add: index"));
    assert!(text(&index(3, &[4]), &s.to_dtype(DType::F32).unwrap()).starts_with("index_add: source"));
    let scalar = Tensor::new(1_f32, &Device::Cpu).unwrap();
    assert!(index_add(&scalar, &beyond, &s).unwrap_err().to_string().starts_with("index_add: input"));
    let wide = scatter_add(&x, &index(3, &[4, 3]), &random("s", &[4, 3])).unwrap_err().to_string();
    assert!(wide.starts_with("scatter_add: index"));
    let other = scatter_add(&x, &index(3, &[4, 2]), &random("s", &[3, 2])).unwrap_err().to_string();
    assert!(other.starts_with("scatter_add: source"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_panics(rows in 0_usize..4, count in 0_usize..5, width in 0_usize..4, each: bool, top in 1_u32..5) {
        let x = Var::from_tensor(&random("x", &[rows, 3])).unwrap();
        let s = Var::from_tensor(&random("s", &[count, width])).unwrap();
        let got = if each {
            scatter_add(&x, &index(top, &[count, width]), &s)
        } else {
            index_add(&x, &index(top, &[count]), &s)
        };
        if let Ok(y) = got {
            y.sum_all().unwrap().backward().unwrap();
        }
    }
}
