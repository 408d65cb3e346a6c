//! Copies of small matrices with rows and columns exchanged.

use crate::ops::support::Float;

/// `to[c, r] = from[r, c]`, with the rows of both `apart`.
pub(super) fn transpose<T: Float>(
    from: &[T],
    from_apart: usize,
    [rows, columns]: [usize; 2],
    to: &mut [T],
    to_apart: usize,
) {
    const SIDE: usize = 8;
    let mut tile = [[T::ZERO; SIDE]; SIDE];
    for first_row in (0..rows).step_by(SIDE) {
        for first in (0..columns).step_by(SIDE) {
            if first_row + SIDE > rows || first + SIDE > columns {
                for row in first_row..rows.min(first_row + SIDE) {
                    for column in first..columns.min(first + SIDE) {
                        to[column * to_apart + row] = from[row * from_apart + column];
                    }
                }
                continue;
            }
            // Whole lines in and out, so that neither side of the cache is touched number by number.
            for (row, tile) in tile.iter_mut().enumerate() {
                let at = (first_row + row) * from_apart + first;
                tile.copy_from_slice(&from[at..at + SIDE]);
            }
            for (column, to) in to[first * to_apart..].chunks_mut(to_apart).take(SIDE).enumerate() {
                let turned: [T; SIDE] = std::array::from_fn(|row| tile[row][column]);
                to[first_row..first_row + SIDE].copy_from_slice(&turned);
            }
        }
    }
}

/// Writes sums `(channels, columns)` to a block, neighbouring channels and columns so far apart.
#[inline]
pub(super) fn put<T: Float>(sums: &[T], [channels, columns]: [usize; 2], block: &mut [T], apart: [usize; 2]) {
    if apart[0] == 1 {
        return transpose(sums, columns, [channels, columns], block, apart[1]);
    }
    // Indices, since adapters of iterators cost several times as much here.
    for (channel, sums) in sums.chunks_exact(columns).enumerate() {
        for (column, &sum) in sums.iter().enumerate() {
            block[channel * apart[0] + column * apart[1]] = sum;
        }
    }
}
