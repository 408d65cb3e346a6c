//! Messages between processes: a short head as JSON, then bytes as they are.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// More than any head needs; what claims more is no message of ours.
const LONGEST_HEAD: u32 = 1 << 20;

/// Length of the head in four bytes, length of the body in eight, head, body.
pub(super) fn write(stream: &mut impl Write, head: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    let length = u32::try_from(head.len()).ok().filter(|&length| length <= LONGEST_HEAD);
    let length = length.ok_or_else(|| io::Error::other(format!("a head of {} bytes", head.len())))?;
    let mut start = Vec::with_capacity(12 + head.len());
    start.extend_from_slice(&length.to_le_bytes());
    start.extend_from_slice(&(body.len() as u64).to_le_bytes());
    start.extend_from_slice(&head);
    // Short messages leave in one piece.
    if body.len() < 1 << 16 {
        start.extend_from_slice(body);
        stream.write_all(&start)?;
    } else {
        stream.write_all(&start)?;
        stream.write_all(body)?;
    }
    stream.flush()
}

/// The other end of [`write`].
pub(super) fn read<H: DeserializeOwned>(stream: &mut impl Read) -> io::Result<(H, Vec<u8>)> {
    let (mut head, mut body) = ([0; 4], [0; 8]);
    stream.read_exact(&mut head)?;
    stream.read_exact(&mut body)?;
    let (head, body) = (u32::from_le_bytes(head), u64::from_le_bytes(body));
    if head > LONGEST_HEAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a head of {head} bytes")));
    }
    let head = take(stream, u64::from(head))?;
    let head = serde_json::from_slice(&head)?;
    Ok((head, take(stream, body)?))
}

/// Memory grows with what comes, not with what was announced.
fn take(stream: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).min(1 << 24));
    stream.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for len in [0, 1, 1 << 17] {
            let (mut wire, body) = (Vec::new(), vec![7; len]);
            write(&mut wire, &("head", 3), &body).unwrap();
            write(&mut wire, &("next", 4), &[]).unwrap();
            let mut rest = wire.as_slice();
            let found: ((String, u8), Vec<u8>) = read(&mut rest).unwrap();
            assert_eq!(found, (("head".to_owned(), 3), body));
            assert_eq!(read::<(String, u8)>(&mut rest).unwrap().0.1, 4);
            assert!(read::<(String, u8)>(&mut rest).is_err());
            for cut in [3, 13, 21] {
                assert!(read::<(String, u8)>(&mut &wire[..cut]).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn rubbish_is_an_error() {
        let huge = [255; 64];
        assert_eq!(read::<u8>(&mut &huge[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // A body of 2^63 bytes of which four come.
        let mut lies = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, b'3'];
        lies.extend_from_slice(b"four");
        assert_eq!(read::<u8>(&mut lies.as_slice()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
