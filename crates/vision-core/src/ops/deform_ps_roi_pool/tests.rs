use candle_core::DType;
use proptest::prelude::*;

use super::*;
use crate::rng::Key;
use crate::testing::gradcheck;

fn normal(key: u64, dims: &[usize]) -> Tensor {
    Key::new(key).normal(dims, 0., 1., DType::F64, &Device::Cpu).unwrap()
}

fn boxes() -> Tensor {
    let rows =
        [[0., 0.3, 1.2, 4.9, 5.1], [1., -2., -2., 9., 9.], [0., 40., 2., 50., 2.], [1., 4., 4., 1., 1.]];
    Tensor::new(&rows, &Device::Cpu).unwrap()
}

fn args() -> DeformPsRoiPoolArgs {
    DeformPsRoiPoolArgs {
        output_size: 3,
        group_size: 2,
        spatial_scale: 0.9,
        ..DeformPsRoiPoolArgs::default()
    }
}

#[test]
fn a_ramp_is_read_at_the_upper_left_of_the_parts_and_moved_by_x_first() {
    let x = Tensor::arange(0f64, 100., &Device::Cpu).unwrap().reshape((1, 1, 10, 10)).unwrap();
    // From 1.5 to 5.5 along both axes: samples at 1.5, 2.5 | 3.5, 4.5.
    let boxes = Tensor::new(&[[0., 2., 2., 5., 5.]], &Device::Cpu).unwrap();
    let args = DeformPsRoiPoolArgs { output_size: 2, group_size: 1, sample_per_part: 2, ..args() };
    let args = DeformPsRoiPoolArgs { spatial_scale: 1., ..args };
    let flat = |y: Tensor| y.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let y = flat(deform_ps_roi_pool(&x, &boxes, None, &args).unwrap());
    assert_eq!(y, [22., 24., 42., 44.]);
    let offset = Tensor::new(&[[[[1., 0.], [0., 0.]], [[0., 0.], [0., -1.]]]], &Device::Cpu).unwrap();
    let y = flat(deform_ps_roi_pool(&x, &boxes, Some(&offset), &args).unwrap());
    let want = [22.4, 24., 42., 40.];
    assert!(y.iter().zip(want).all(|(y, want)| (y - want).abs() < 1e-9), "{y:?}");
}

#[test]
fn gradients_of_map_and_offsets() {
    let x = normal(1, &[2, 8, 7, 6]);
    for (part_size, classes) in [(0, 2), (2, 1), (5, 1)] {
        let args = DeformPsRoiPoolArgs { part_size, ..args() };
        let parts = if part_size == 0 { 3 } else { part_size };
        let offset = normal(2, &[4, 2 * classes, parts, parts]);
        let run = |t: &[Tensor]| deform_ps_roi_pool(&t[0], &boxes(), Some(&t[1]), &args);
        gradcheck(run, &[x.clone(), offset], 1e-6, 1e-6).unwrap();
    }
    gradcheck(|t| deform_ps_roi_pool(&t[0], &boxes(), None, &args()), &[x], 1e-6, 1e-8).unwrap();
}

#[test]
fn offsets_that_are_no_numbers_and_no_boxes() {
    let x = normal(1, &[2, 8, 7, 6]);
    let offset = (normal(2, &[4, 2, 3, 3]) * f64::NAN).unwrap();
    let y = deform_ps_roi_pool(&x, &boxes(), Some(&offset), &args()).unwrap();
    assert_eq!(y.sum_all().unwrap().to_scalar::<f64>().unwrap(), 0.);
    let y = deform_ps_roi_pool(&x, &boxes().narrow(0, 0, 0).unwrap(), None, &args()).unwrap();
    assert_eq!(y.dims(), [0, 2, 3, 3]);
}

#[test]
fn errors_name_the_argument() {
    let x = normal(1, &[2, 8, 7, 6]);
    let fails = |offset: &[usize], args: &DeformPsRoiPoolArgs, message: &str| {
        let error = deform_ps_roi_pool(&x, &boxes(), Some(&normal(2, offset)), args).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    fails(&[4, 2, 3, 2], &args(), "deform_ps_roi_pool: offset");
    fails(&[4, 6, 3, 3], &args(), "classes dividing 2");
    fails(&[3, 2, 3, 3], &args(), "deform_ps_roi_pool: offset");
    fails(&[4, 2, 3, 3], &DeformPsRoiPoolArgs { sample_per_part: 0, ..args() }, "sample_per_part");
    fails(&[4, 2, 3, 3], &DeformPsRoiPoolArgs { group_size: 3, ..args() }, "8 channels");
}

proptest! {
    #[test]
    fn nothing_panics(
        size in prop::array::uniform4(0usize..5),
        sides in prop::array::uniform4(prop::num::f64::ANY),
        offset in prop::num::f64::ANY,
        output_size in 0usize..4,
        group_size in 0usize..3,
        part_size in 0usize..4,
        spatial_scale in prop::num::f64::ANY,
    ) {
        let x = Tensor::ones(&size, DType::F64, &Device::Cpu).unwrap();
        let boxes = Tensor::new(&[[0., sides[0], sides[1], sides[2], sides[3]]], &Device::Cpu).unwrap();
        let args =
            DeformPsRoiPoolArgs { output_size, spatial_scale, group_size, part_size, ..DeformPsRoiPoolArgs::default() };
        let parts = if part_size == 0 { output_size } else { part_size };
        let offset = Tensor::full(offset, (1, 2, parts, parts), &Device::Cpu).unwrap();
        let _ = deform_ps_roi_pool(&x, &boxes, Some(&offset), &args);
    }
}
