use super::*;

#[test]
fn mask_words_are_those_of_single_blocks() {
    let key = Key::new(0x1234_5678_9abc_def0);
    for group in [0, 5, (1 << 29) - 1, 1 << 29, u64::MAX / 8] {
        let mut words = [0; MASK_WORDS];
        key.mask_words(group, &mut words);
        for (i, word) in words.into_iter().enumerate() {
            let block = key.block(group * 8 + i as u64 % 8, 0, domain::MASK);
            assert_eq!(word, block[i / 8], "{group} {i}");
        }
    }
}

/// The known answers published with the Random123 library.
#[test]
fn philox_known_answers() {
    assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    assert_eq!(
        philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
        [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
    );
}

/// The layout of the counter is part of the format: changing it changes every experiment.
#[test]
fn streams_are_stable() {
    let key = Key::new(0);
    assert_eq!(key.u64_at(0), 0xe169_c58d_6627_e8d5);
    assert_eq!(key.u64_at(1), 0x9b00_dbd8_bc57_ac4c);
    assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    assert_ne!(key.fold("1"), key.fold_u64(1));
    assert_ne!(key.fold("a").fold("b"), key.fold("ab"));
}

#[test]
fn tensors_agree_with_positions_whatever_the_thread_count() {
    let key = Key::new(11).fold("t");
    let shape = (3, 20_000);
    let draw = || {
        let u = key.uniform(shape, -1., 2., DType::F64, &Device::Cpu).unwrap();
        let n = key.normal(shape, 0., 1., DType::F64, &Device::Cpu).unwrap();
        let b = key.below(1000, shape, &Device::Cpu).unwrap();
        (
            u.flatten_all().unwrap().to_vec1::<f64>().unwrap(),
            n.flatten_all().unwrap().to_vec1::<f64>().unwrap(),
            b.flatten_all().unwrap().to_vec1::<u32>().unwrap(),
        )
    };
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(draw);
    let four = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap().install(draw);
    assert_eq!(one, four);
    for i in [0_usize, 1, 16_383, 16_384, 59_999] {
        assert_eq!(one.0[i], -1. + 3. * key.f64_at(i as u64));
        assert_eq!(one.2[i], key.below_at(i as u64, 1000).unwrap());
    }
}

#[test]
fn moments_and_ranges() {
    let n = 200_000;
    let key = Key::new(3);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let u: Vec<f64> = key.uniform(n, 0., 1., DType::F64, &Device::Cpu).unwrap().to_vec1().unwrap();
    assert!(u.iter().all(|x| (0. ..1.).contains(x)));
    assert!((mean(&u) - 0.5).abs() < 3e-3);
    let z: Vec<f64> = key.normal(n, 1., 2., DType::F64, &Device::Cpu).unwrap().to_vec1().unwrap();
    let centred: Vec<f64> = z.iter().map(|x| (x - 1.) * (x - 1.)).collect();
    assert!((mean(&z) - 1.).abs() < 0.02, "{}", mean(&z));
    assert!((mean(&centred) - 4.).abs() < 0.06, "{}", mean(&centred));
}

/// Chi-square over equal cells, and one `n` whose uneven rest is a quarter of the range.
#[test]
fn bounded_integers_are_uniform() {
    let draws = 1_000_000;
    let v: Vec<u32> = Key::new(5).below(1000, draws, &Device::Cpu).unwrap().to_vec1().unwrap();
    let mut cells = vec![0_f64; 1000];
    for x in v {
        cells[x as usize] += 1.;
    }
    let want = draws as f64 / 1000.;
    let chi2: f64 = cells.iter().map(|c| (c - want) * (c - want) / want).sum();
    // 999 degrees of freedom: mean 999, standard deviation 44.7.
    assert!((800. ..1150.).contains(&chi2), "{chi2}");
    let n = 3 << 30;
    let v: Vec<u32> = Key::new(6).below(n, 30_000, &Device::Cpu).unwrap().to_vec1().unwrap();
    let third = |k: u32| v.iter().filter(|x| **x / (1 << 30) == k).count() as f64 / 30_000.;
    for k in 0..3 {
        assert!((third(k) - 1. / 3.).abs() < 0.015, "{k}: {}", third(k));
    }
}

#[test]
fn f32_is_the_rounded_f64_and_stays_below_hi() {
    let key = Key::new(9);
    let wide: Vec<f64> = key.uniform(1000, -0.3, 0.3, DType::F64, &Device::Cpu).unwrap().to_vec1().unwrap();
    let narrow: Vec<f32> = key.uniform(1000, -0.3, 0.3, DType::F32, &Device::Cpu).unwrap().to_vec1().unwrap();
    assert!(wide.iter().zip(&narrow).all(|(w, n)| *w as f32 == *n && f64::from(*n) < 0.3));
}

#[test]
fn bad_arguments_are_errors() {
    let (key, cpu) = (Key::new(0), &Device::Cpu);
    assert!(key.below_at(0, 0).is_err());
    assert!(key.below(0, 3, cpu).is_err());
    assert!(key.uniform(3, 1., 1., DType::F32, cpu).is_err());
    assert!(key.normal(3, 0., -1., DType::F32, cpu).is_err());
    assert!(matches!(key.uniform(3, 0., 1., DType::U32, cpu), Err(Error::Dtype { .. })));
    assert_eq!(key.normal((0, 4), 0., 1., DType::F32, cpu).unwrap().dims(), &[0, 4]);
}
