use candle_core::{DType, Var};
use proptest::prelude::*;

use super::*;
use crate::rng::Key;
use crate::testing::gradcheck;

fn map(values: &[f32], h: usize, w: usize) -> Tensor {
    Tensor::from_slice(values, (1, 1, h, w), &Device::Cpu).unwrap()
}

/// A row of places at grid height 0.
fn places(x: &[f32]) -> Tensor {
    let pairs: Vec<f32> = x.iter().flat_map(|x| [*x, 0.]).collect();
    Tensor::from_vec(pairs, (1, 1, x.len(), 2), &Device::Cpu).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn every_option() -> impl Iterator<Item = GridSampleArgs> {
    let modes = [GridMode::Bilinear, GridMode::Nearest];
    let paddings = [GridPadding::Zeros, GridPadding::Border, GridPadding::Reflection];
    modes.into_iter().flat_map(move |mode| {
        paddings.into_iter().flat_map(move |padding_mode| {
            [false, true].map(|align_corners| GridSampleArgs { mode, padding_mode, align_corners })
        })
    })
}

#[test]
fn corners_of_the_map() {
    let x = map(&[1.0, 2.0, 3.0, 4.0], 1, 4);
    let at = places(&[-1.0, -0.75, 0.0, 0.75, 1.0]);
    let sample = |args| flat(&grid_sample(&x, &at, &args).unwrap());
    let zeros = GridSampleArgs::default();
    assert_eq!(sample(zeros), [0.5, 1.0, 2.5, 4.0, 2.0]);
    let border = GridSampleArgs { padding_mode: GridPadding::Border, ..zeros };
    assert_eq!(sample(border), [1.0, 1.0, 2.5, 4.0, 4.0]);
    let aligned = GridSampleArgs { align_corners: true, ..zeros };
    assert_eq!(sample(aligned), [1.0, 1.375, 2.5, 3.625, 4.0]);
    let nearest = GridSampleArgs { mode: GridMode::Nearest, ..zeros };
    // -0.5 and 1.5 round to 0 and 2, 3.5 rounds to 4, which is outside.
    assert_eq!(sample(nearest), [1.0, 1.0, 3.0, 4.0, 0.0]);
}

#[test]
fn reflection_goes_back_and_forth() {
    let x = map(&[1.0, 2.0, 3.0], 1, 3);
    let args = GridSampleArgs {
        padding_mode: GridPadding::Reflection,
        align_corners: true,
        ..GridSampleArgs::default()
    };
    let at = places(&[-3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0]);
    let got = flat(&grid_sample(&x, &at, &args).unwrap());
    assert_eq!(got, [3.0, 2.0, 1.0, 3.0, 2.0, 1.0, 2.0, 3.0, 1.0]);
}

#[test]
fn gradients_of_all_options() {
    let x = Key::new(3).normal((2, 3, 4, 5), 0., 1., DType::F64, &Device::Cpu).unwrap();
    let grid = Key::new(4).uniform((2, 3, 6, 2), -2.5, 2.5, DType::F64, &Device::Cpu).unwrap();
    for args in every_option() {
        gradcheck(|t| grid_sample(&t[0], &t[1], &args), &[x.clone(), grid.clone()], 1e-6, 1e-7).unwrap();
    }
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let x = Key::new(3).normal((1, 11, 9, 4), 0., 1., DType::F32, &Device::Cpu).unwrap();
    let grid = Key::new(4).uniform((1, 30, 30, 2), -1.1, 1.1, DType::F32, &Device::Cpu).unwrap();
    let gradient = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let x = Var::from_tensor(&x).unwrap();
            let y = grid_sample(&x, &grid, &GridSampleArgs::default()).unwrap();
            flat(y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&x).unwrap())
        })
    };
    assert_eq!(gradient(1), gradient(3));
}

#[test]
fn strided_and_empty_inputs() {
    let x = Key::new(3).normal((2, 5, 4, 3), 0., 1., DType::F32, &Device::Cpu).unwrap();
    let grid = Key::new(4).uniform((2, 3, 6, 2), -1.5, 1.5, DType::F32, &Device::Cpu).unwrap();
    let (view, turned) = (x.transpose(1, 3).unwrap(), grid.transpose(1, 2).unwrap());
    let args = GridSampleArgs::default();
    let want = grid_sample(&view.contiguous().unwrap(), &turned.contiguous().unwrap(), &args).unwrap();
    assert_eq!(flat(&grid_sample(&view, &turned, &args).unwrap()), flat(&want));
    for (n, oh) in [(0, 3), (2, 0)] {
        let empty = Var::zeros((n, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
        let grid = Var::zeros((n, oh, 5, 2), DType::F32, &Device::Cpu).unwrap();
        let y = grid_sample(&empty, &grid, &args).unwrap();
        assert_eq!(y.dims(), [n, 2, oh, 5]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&empty).unwrap().dims(), [n, 2, 4, 4]);
        assert_eq!(grads.get(&grid).unwrap().dims(), [n, oh, 5, 2]);
    }
}

#[test]
fn wrong_arguments_are_named() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let problem = |x: &[usize], grid: &[usize]| {
        grid_sample(&zeros(x), &zeros(grid), &GridSampleArgs::default()).unwrap_err().to_string()
    };
    assert!(problem(&[1, 1, 2, 2], &[1, 2, 2, 3]).starts_with("grid_sample: grid"));
    assert!(problem(&[1, 1, 2, 2], &[2, 2, 2, 2]).starts_with("grid_sample: grid"));
    assert!(problem(&[1, 1, 2, 2], &[2, 2]).starts_with("grid_sample: grid"));
    assert!(problem(&[1, 1, 0, 2], &[1, 2, 2, 2]).starts_with("grid_sample: input"));
    assert!(problem(&[2, 2], &[1, 2, 2, 2]).starts_with("grid_sample: input"));
    let wide = Tensor::zeros((1, 2, 2, 2), DType::F64, &Device::Cpu).unwrap();
    let got = grid_sample(&zeros(&[1, 1, 2, 2]), &wide, &GridSampleArgs::default());
    assert!(matches!(got, Err(Error::Dtype { .. })));
}

proptest! {
    #[test]
    fn any_place_gives_a_result(
        dims in prop::array::uniform4(0usize..5),
        (oh, ow) in (0usize..4, 0usize..4),
        value in prop::num::f32::ANY,
        (mode, padding, align_corners) in (0usize..2, 0usize..3, any::<bool>()),
    ) {
        let x = Var::ones(&dims, DType::F32, &Device::Cpu).unwrap();
        let grid = Var::from_tensor(&Tensor::full(value, (dims[0], oh, ow, 2), &Device::Cpu).unwrap()).unwrap();
        let args = GridSampleArgs {
            mode: [GridMode::Bilinear, GridMode::Nearest][mode],
            padding_mode: [GridPadding::Zeros, GridPadding::Border, GridPadding::Reflection][padding],
            align_corners,
        };
        if let Ok(y) = grid_sample(&x, &grid, &args) {
            y.sum_all().unwrap().backward().unwrap();
            if padding != 0 {
                prop_assert!(flat(&y).iter().all(|y| (y - 1.).abs() < 1e-5));
            }
        }
    }
}
