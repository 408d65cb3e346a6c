//! The vote against a brute-force oracle, and against numbers of the paper's code.
#![allow(clippy::unwrap_used, reason = "tests may stop on the first surprise")]

use vision_eval::knn::{KnnAccuracy, WeightedKnn};
use vision_eval::{Error, UNKNOWN};

/// A small generator, so that failures repeat: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// The `k` nearest rows: sort everything.
fn nearest(similarities: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
    let mut rows: Vec<u32> = (0..similarities.len() as u32).collect();
    rows.sort_by(|&a, &b| similarities[b as usize].total_cmp(&similarities[a as usize]).then(a.cmp(&b)));
    rows.truncate(k);
    let values = rows.iter().map(|&row| similarities[row as usize]).collect();
    (rows, values)
}

/// The ranking, written the slow and plain way: per class, go through all rows and keep those that are near.
fn oracle(similarities: &[f32], labels: &[i64], k: usize, sigma: f64) -> Vec<i64> {
    let is_near = |row: usize| {
        let closer = (0..labels.len()).filter(|&other| {
            similarities[other] > similarities[row]
                || (similarities[other] == similarities[row] && other < row)
        });
        closer.count() < k
    };
    let near: Vec<usize> = (0..labels.len()).filter(|&row| is_near(row)).collect();
    let mut classes: Vec<i64> = labels.iter().copied().filter(|&label| label != UNKNOWN).collect();
    classes.sort_unstable();
    classes.dedup();
    // Exactly the similarities of each class, so that equal classes compare equal without rounding.
    let score = |class: i64| {
        let mut own: Vec<f32> =
            near.iter().filter(|&&row| labels[row] == class).map(|&row| similarities[row]).collect();
        own.sort_by(|a, b| b.total_cmp(a));
        own.iter().map(|&s| (f64::from(s) / sigma).exp()).sum::<f64>()
    };
    let mut scored: Vec<(i64, f64)> = classes.iter().map(|&class| (class, score(class))).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.into_iter().map(|(class, _)| class).collect()
}

#[test]
fn two_hundred_random_cases_agree_with_brute_force() {
    let mut random = Random(1);
    let mut ties = 0;
    for case in 0..200 {
        let n = 1 + random.below(60);
        let k = if case % 4 == 0 { n } else { 1 + random.below(n) };
        // One class, a few, or labels with gaps; every fifth case has rows without a label.
        let names: Vec<i64> = match case % 3 {
            0 => vec![4],
            1 => vec![0, 1, 2],
            _ => vec![-9, 3, 1000, 70_000_000_000],
        };
        let labels: Vec<i64> = (0..n)
            .map(|_| {
                if case % 5 == 0 && random.below(3) == 0 { UNKNOWN } else { names[random.below(names.len())] }
            })
            .collect();
        // Few distinct values make many exact ties.
        let levels = if case % 2 == 0 { 4 } else { 1 << 20 };
        let sigma = [0.07, 0.1, 1.0][case % 3];
        let knn = WeightedKnn::new(k, sigma).unwrap();
        let mut whole = KnnAccuracy::new(knn, labels.clone(), &[1, 2]).unwrap();
        let mut shards = vec![whole.clone(); 3];
        let mut expected = [0u64; 2];
        let queries = random.below(12);
        for query in 0..queries {
            let similarities: Vec<f32> =
                (0..n).map(|_| random.below(levels) as f32 / levels as f32 * 2.0 - 1.0).collect();
            let (rows, values) = nearest(&similarities, n);
            ties += usize::from(values.windows(2).any(|pair| pair[0] == pair[1]));
            let ranking = knn.rank(&rows, &values, &labels).unwrap();
            let order: Vec<i64> = ranking.classes.iter().map(|&(class, _)| class).collect();
            let want = oracle(&similarities, &labels, k, sigma);
            assert_eq!(order, want, "case {case}: n {n}, k {k}, sigma {sigma}");
            let label = names[random.below(names.len())];
            for (cutoff, hits) in [1, 2].into_iter().zip(&mut expected) {
                *hits += u64::from(want.iter().take(cutoff).any(|&class| class == label));
            }
            whole.update(&rows[..k], &values[..k], label).unwrap();
            shards[query % 3].update(&rows[..k], &values[..k], label).unwrap();
        }
        let values = whole.compute();
        for (value, hits) in values.iter().zip(expected) {
            assert_eq!(value.count, queries as u64);
            assert_eq!(value.value, if queries == 0 { 0.0 } else { hits as f64 / queries as f64 });
        }
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut merged = shards[order[0]].clone();
            merged.merge(&shards[order[1]]).unwrap();
            merged.merge(&shards[order[2]]).unwrap();
            assert_eq!(merged, whole);
        }
        let more = WeightedKnn::new(n + 1, sigma).unwrap();
        assert!(matches!(KnnAccuracy::new(more, labels, &[1]), Err(Error::TooFew { .. })));
    }
    assert!(ties > 100, "only {ties} queries had ties");
}

fn normalised(row: impl Iterator<Item = f32>) -> Vec<f32> {
    let row: Vec<f32> = row.collect();
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    row.iter().map(|x| x / norm).collect()
}

/// The numbers come from the paper's own code (torch 1.0.0): a bank of 64 rows and 4 queries from closed formulas.
#[test]
fn numbers_of_the_original_code() {
    let bank: Vec<Vec<f32>> = (0..64)
        .map(|i| i as f32)
        .map(|i| normalised((0..16).map(|j| (0.7 * i + 0.31 * j as f32 * (1.0 + 0.05 * i)).sin())))
        .collect();
    let queries: Vec<Vec<f32>> = (0..4)
        .map(|b| b as f32)
        .map(|b| normalised((0..16).map(|j| j as f32).map(|j| (0.9 * b + 0.53 * j + 0.2 * b * j).cos())))
        .collect();
    let labels: Vec<i64> = (0..64).map(|i| (5 * i + 2) % 6).collect();
    let best = [
        (1, 0.07, None),
        (10, 0.07, Some(731_881.76)),
        (10, 0.1, Some(12_857.989)),
        (64, 0.1, Some(12_874.377)),
    ];
    for (k, sigma, best) in best {
        let knn = WeightedKnn::new(k, sigma).unwrap();
        let mut predictions = Vec::new();
        for (b, query) in queries.iter().enumerate() {
            let dot = |row: &Vec<f32>| row.iter().zip(query).map(|(v, f)| v * f).sum();
            let similarities: Vec<f32> = bank.iter().map(dot).collect();
            let (rows, values) = nearest(&similarities, 64);
            let ranking = knn.rank(&rows, &values, &labels).unwrap();
            predictions.push(ranking.prediction().unwrap());
            if b == 0 {
                assert_eq!(rows[..5], [12, 19, 11, 20, 4]);
                if let Some(best) = best {
                    let score = ranking.classes[0].1 * (ranking.reference.unwrap() / sigma).exp();
                    // Similarities in 32 bits move exp(s / 0.07) by up to 1e-5 of itself.
                    assert!(
                        (score / best - 1.0f64).abs() < 2e-5,
                        "k {k}, sigma {sigma}: {score} against {best}"
                    );
                }
            }
        }
        assert_eq!(predictions, [2, 2, 3, 5], "k {k}, sigma {sigma}");
    }
}
