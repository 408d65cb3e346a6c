//! The world of one rank.

use super::{Collective, Values, check_root};
use crate::error::Result;

/// The world of one rank: nothing is exchanged and nothing waits.
///
/// ```
/// use vision_core::dist::{Collective, Single, Values};
/// let mut loss = [0.5];
/// Single.all_reduce("loss", Values::F64(&mut loss))?;
/// assert_eq!(loss, [0.5]);
/// assert_eq!((Single.rank(), Single.world_size()), (0, 1));
/// # Ok::<(), vision_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Single;

impl Collective for Single {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _name: &str, _values: Values<'_>) -> Result<()> {
        Ok(())
    }

    fn broadcast(&self, _name: &str, _values: Values<'_>, root: usize) -> Result<()> {
        check_root(root, 1)
    }

    fn all_gather_bytes(&self, _name: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }

    fn barrier(&self, _name: &str) -> Result<()> {
        Ok(())
    }
}
