//! The kernels of every instruction set of this processor beside plain loops.

use super::*;

fn all_f32() -> Vec<Kernels<f32>> {
    let mut all = vec![portable_f32::KERNELS];
    #[cfg(target_arch = "x86_64")]
    {
        if crate::cpu::detected() >= Isa::Avx2 {
            all.extend([avx2_f32::KERNELS, avx2_f32_narrow::KERNELS]);
        }
        if crate::cpu::detected() >= Isa::Avx512 {
            all.extend([avx512_f32::KERNELS, avx512_f32_narrow::KERNELS]);
        }
    }
    all
}

/// Small integers, whose sums are exact in any order.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + seed * 13) % 11) as f32 - 5.0).collect()
}

#[test]
fn tiles_of_every_kernel() {
    let (runs, len) = (3, 5);
    for kernels in all_f32() {
        let Shape { rows, columns } = kernels.shape;
        let input = numbers(rows * runs * (len + 1), 1);
        let panel = numbers(runs * len * columns, 2);
        let (bias, scale) = (numbers(columns, 3), numbers(columns, 5));
        let residual = numbers(rows * columns, 4);
        for (used, width, accumulate, relu, scaled) in [
            (rows, columns, false, false, false),
            (1, columns, true, true, true),
            (rows - 1, columns - 1, true, true, false),
            (rows, columns - 1, true, false, true),
        ] {
            let mut out = vec![77.0f32; rows * columns];
            // One element in front of each run is skipped.
            let inputs: Vec<*const f32> = (0..runs)
                .flat_map(|run| (0..rows).map(move |row| (row * runs + run) * (len + 1)))
                .map(|at| input[at..].as_ptr())
                .collect();
            let outputs: Vec<*mut f32> = out.chunks_exact_mut(columns).map(<[f32]>::as_mut_ptr).collect();
            let residuals: Vec<*const f32> = residual.chunks_exact(columns).map(<[f32]>::as_ptr).collect();
            let tile = Tile {
                inputs: inputs.as_ptr(),
                offset: 1,
                runs,
                len,
                panel: panel.as_ptr(),
                outputs: outputs.as_ptr(),
                rows: used,
                columns: width,
                accumulate,
                finish: Finish {
                    scale: if scaled { scale.as_ptr() } else { std::ptr::null() },
                    bias: bias.as_ptr(),
                    residuals: residuals.as_ptr(),
                    relu,
                },
            };
            // SAFETY: the pointers above cover what the tile reads and writes; only detected kernels are listed.
            unsafe { (kernels.tile)(&tile) };
            for row in 0..rows {
                for column in 0..columns {
                    let mut want = if accumulate { 77.0 } else { 0.0 };
                    for run in 0..runs {
                        for k in 0..len {
                            want += input[(row * runs + run) * (len + 1) + 1 + k]
                                * panel[(run * len + k) * columns + column];
                        }
                    }
                    want *= if scaled { scale[column] } else { 1.0 };
                    want += bias[column] + residual[row * columns + column];
                    let want = if relu { want.max(0.0) } else { want };
                    let want = if row < used && column < width { want } else { 77.0 };
                    assert_eq!(out[row * columns + column], want, "{:?} {row} {column}", kernels.shape);
                }
            }
        }
    }
}

#[test]
fn outer_products_of_every_kernel() {
    let pixels = 7;
    for kernels in all_f32() {
        let columns = kernels.shape.columns;
        let sizes = [1, 3, kernels.shape.rows, kernels.shape.rows + 7];
        for (rows, accumulate) in sizes.into_iter().flat_map(|rows| [(rows, true), (rows, false)]) {
            let input = numbers(pixels * (rows + 2), 1);
            let panel = numbers(pixels * columns, 2);
            let mut into = vec![1.0f32; rows * columns];
            let pointers: Vec<*const f32> = (0..pixels).map(|p| input[p * (rows + 2)..].as_ptr()).collect();
            let outer = Outer {
                inputs: pointers.as_ptr(),
                offset: 2,
                pixels,
                panel: panel.as_ptr(),
                into: into.as_mut_ptr(),
                rows,
                accumulate,
            };
            // SAFETY: every pixel has `rows + 2` elements; only detected kernels are listed.
            unsafe { (kernels.outer)(&outer) };
            for m in 0..rows {
                for n in 0..columns {
                    let sum: f32 =
                        (0..pixels).map(|p| input[p * (rows + 2) + 2 + m] * panel[p * columns + n]).sum();
                    let before = if accumulate { 1.0 } else { 0.0 };
                    assert_eq!(into[m * columns + n], before + sum);
                }
            }
        }
    }
}
