use candle_core::{DType, Var};
use proptest::prelude::*;

use super::*;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

const NEAREST: InterpolateArgs =
    InterpolateArgs { mode: InterpolateMode::Nearest, align_corners: false, antialias: false };

fn row(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, (1, 1, 1, values.len()), &Device::Cpu).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn factor(factor: f64, recompute: bool) -> ResizeTo {
    ResizeTo::Factor { factor: [1., factor], recompute }
}

#[test]
fn nearest_repeats_and_drops() {
    let x = row(&[1.0, 2.0, 3.0]);
    let resize = |n| flat(&interpolate(&x, ResizeTo::Size([1, n]), &NEAREST).unwrap());
    assert_eq!(resize(6), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    assert_eq!(resize(2), [1.0, 2.0]);
    assert_eq!(resize(5), [1.0, 1.0, 2.0, 2.0, 3.0]);
    let doubled = interpolate(&x, ResizeTo::Size([2, 3]), &NEAREST).unwrap();
    assert_eq!(flat(&doubled), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
}

#[test]
fn bilinear_with_and_without_aligned_corners() {
    let x = row(&[0.0, 4.0]);
    let resize = |args| flat(&interpolate(&x, ResizeTo::Size([1, 4]), &args).unwrap());
    assert_eq!(resize(InterpolateArgs::bilinear(false)), [0.0, 1.0, 3.0, 4.0]);
    let aligned = resize(InterpolateArgs::bilinear(true));
    for (got, want) in aligned.iter().zip([0.0, 4.0 / 3.0, 8.0 / 3.0, 4.0]) {
        assert!((got - want).abs() < 1e-6, "{aligned:?}");
    }
}

#[test]
fn antialiasing_averages_where_plain_bilinear_skips() {
    let x = row(&[0.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0, 0.0]);
    let plain = InterpolateArgs::bilinear(false);
    assert_eq!(flat(&interpolate(&x, ResizeTo::Size([1, 2]), &plain).unwrap()), [0.0, 0.0]);
    let smooth = InterpolateArgs { antialias: true, ..plain };
    let got = flat(&interpolate(&x, ResizeTo::Size([1, 2]), &smooth).unwrap());
    // Triangles of half width 4 around 2 and 6: pixel 3 is 1.5 and 2.5 away; sums 3.5 and 3.5 of 8 / 4.
    for (got, want) in got.iter().zip([8.0 * 0.625 / 3.5, 8.0 * 0.375 / 3.5]) {
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
}

#[test]
fn a_factor_counts_as_given_or_as_the_ratio_of_sizes() {
    let x = row(&[0.0, 1.0, 2.0, 3.0, 4.0]);
    let args = InterpolateArgs::bilinear(false);
    let given = flat(&interpolate(&x, factor(1.5, false), &args).unwrap());
    let ratio = flat(&interpolate(&x, factor(1.5, true), &args).unwrap());
    assert_eq!((given.len(), ratio.len()), (7, 7));
    assert!((given[6] - 3.8333333).abs() < 1e-6, "{given:?}");
    assert!((ratio[6] - 4.0).abs() < 1e-6 && (ratio[1] - 4.0 / 7.0).abs() < 1e-6, "{ratio:?}");
}

#[test]
fn gradients_of_all_modes() {
    let x = Key::new(3).normal((2, 2, 5, 4), 0., 1., DType::F64, &Device::Cpu).unwrap();
    let smooth =
        |align_corners| InterpolateArgs { antialias: true, ..InterpolateArgs::bilinear(align_corners) };
    let sizes = [
        ResizeTo::Size([10, 8]),
        ResizeTo::Size([3, 7]),
        ResizeTo::Size([1, 1]),
        ResizeTo::Size([5, 2]),
        ResizeTo::Factor { factor: [1.3, 0.7], recompute: false },
    ];
    for to in sizes {
        for args in [
            NEAREST,
            InterpolateArgs::bilinear(false),
            InterpolateArgs::bilinear(true),
            smooth(false),
            smooth(true),
        ] {
            gradcheck(|t| interpolate(&t[0], to, &args), std::slice::from_ref(&x), 1e-4, 1e-8).unwrap();
        }
    }
}

#[test]
fn gradients_of_several_consumers_add_up() {
    for args in [NEAREST, InterpolateArgs::bilinear(false), InterpolateArgs::bilinear(true)] {
        let x = Key::new(3).normal((1, 2, 4, 5), 0., 1., DType::F64, &Device::Cpu).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let large = |x: &Var| interpolate(x, ResizeTo::Size([7, 9]), &args).unwrap().sum_all().unwrap();
        let small = |x: &Var| {
            interpolate(x, ResizeTo::Size([3, 2]), &args).unwrap().sqr().unwrap().sum_all().unwrap()
        };
        let grad = |y: Tensor| y.backward().unwrap().get(&x).unwrap().clone();
        let apart = ((grad(large(&x)) + grad(small(&x))).unwrap() + 3.0).unwrap();
        let direct = (x.sum_all().unwrap() * 3.0).unwrap();
        let together = grad(((large(&x) + small(&x)).unwrap() + direct).unwrap());
        assert_close(&together, &apart, 1e-12, 1e-12).unwrap();
    }
}

#[test]
fn strided_and_empty_inputs() {
    for channels in 1..7 {
        let x = Key::new(3).normal((2, 5, 4, channels), 0., 1., DType::F32, &Device::Cpu).unwrap();
        let view = x.transpose(1, 3).unwrap();
        let args = InterpolateArgs::bilinear(false);
        let to = ResizeTo::Size([7, 3]);
        let all = interpolate(&view, to, &args).unwrap();
        // Channels do not mix, whatever their number.
        for c in 0..channels {
            let one = interpolate(&view.narrow(1, c, 1).unwrap(), to, &args).unwrap();
            assert_eq!(flat(&all.narrow(1, c, 1).unwrap()), flat(&one));
        }
    }
    let empty = Var::zeros((0, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let y = interpolate(&empty, ResizeTo::Size([2, 5]), &NEAREST).unwrap();
    assert_eq!(y.dims(), [0, 2, 2, 5]);
    assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&empty).unwrap().dims(), [0, 2, 4, 4]);
}

#[test]
fn wrong_arguments_are_named() {
    let x = row(&[0.0; 4]);
    let problem = |to, args: InterpolateArgs| interpolate(&x, to, &args).unwrap_err().to_string();
    assert!(problem(ResizeTo::Size([1, 0]), NEAREST).starts_with("interpolate: size"));
    assert!(problem(ResizeTo::Size([usize::MAX, 2]), NEAREST).starts_with("interpolate: size"));
    for bad in [0., -1., f64::NAN, f64::INFINITY, 0.1] {
        assert!(problem(factor(bad, false), NEAREST).starts_with("interpolate: scale_factor"));
    }
    let one = ResizeTo::Size([1, 1]);
    let args = InterpolateArgs { align_corners: true, ..NEAREST };
    assert!(problem(one, args).starts_with("interpolate: align_corners"));
    let args = InterpolateArgs { antialias: true, ..NEAREST };
    assert!(problem(one, args).starts_with("interpolate: antialias"));
    let none = Tensor::zeros((1, 1, 0, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(interpolate(&none, one, &NEAREST), Err(Error::Shape { .. })));
    let flat = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(interpolate(&flat, one, &NEAREST), Err(Error::Shape { .. })));
    let whole = Tensor::zeros((1, 1, 2, 2), DType::U32, &Device::Cpu).unwrap();
    assert!(matches!(interpolate(&whole, one, &NEAREST), Err(Error::Dtype { .. })));
}

proptest! {
    #[test]
    fn a_constant_stays_constant(
        dims in prop::array::uniform4(0usize..6),
        size in prop::array::uniform2(0usize..20),
        factor in prop::array::uniform2(0.05f64..4.),
        (by_factor, recompute, align_corners, antialias) in any::<(bool, bool, bool, bool)>(),
    ) {
        let to = if by_factor { ResizeTo::Factor { factor, recompute } } else { ResizeTo::Size(size) };
        let x = Var::ones(&dims, DType::F32, &Device::Cpu).unwrap();
        for args in [NEAREST, InterpolateArgs { antialias, ..InterpolateArgs::bilinear(align_corners) }] {
            if let Ok(y) = interpolate(&x, to, &args) {
                y.sum_all().unwrap().backward().unwrap();
                prop_assert!(flat(&y).iter().all(|y| (y - 1.0).abs() < 1e-5));
            }
        }
    }
}
