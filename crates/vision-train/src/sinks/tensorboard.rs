//! TensorBoard event files: length-prefixed, checksummed records that each hold one `Event` protocol buffer.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::system;

/// An event file, open for appending.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Starts a new event file in `folder`. `step` is the step at which this process starts; readers drop
    /// what older files of the folder say about later steps.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        // Readers sort files by name, so the time comes first; the counter keeps restarts apart.
        let seconds = system::now().as_secs();
        let mut attempt = 0;
        let (path, file) = loop {
            let path = folder.join(format!("events.out.tfevents.{seconds:010}.run.{attempt}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1000 => {
                    attempt += 1;
                }
                Err(error) => return Err(Error::io(path, error)),
            }
        };
        let mut writer = Self { path, file };
        let mut version = event(None);
        bytes_field(&mut version, 3, b"brain.Event:2");
        writer.write(&version)?;
        if step > 0 {
            // SessionLog { status: START }: marks a restart at this step.
            let mut start = event(Some(step + 1));
            bytes_field(&mut start, 7, &[0x08, 0x01]);
            writer.write(&start)?;
        }
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one number.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> Result<()> {
        let mut entry = Vec::new();
        bytes_field(&mut entry, 1, tag.as_bytes());
        // Field 2, 32 bits: simple_value.
        entry.push((2 << 3) | 5);
        entry.extend_from_slice(&(value as f32).to_le_bytes());
        self.summary(step, &entry)
    }

    /// Writes one picture, given as PNG.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn image(&mut self, step: u64, tag: &str, width: u32, height: u32, png: &[u8]) -> Result<()> {
        let mut image = Vec::with_capacity(png.len() + 32);
        varint_field(&mut image, 1, u64::from(height));
        varint_field(&mut image, 2, u64::from(width));
        varint_field(&mut image, 3, 3);
        bytes_field(&mut image, 4, png);
        let mut entry = Vec::with_capacity(image.len() + 64);
        bytes_field(&mut entry, 1, tag.as_bytes());
        bytes_field(&mut entry, 4, &image);
        self.summary(step, &entry)
    }

    fn summary(&mut self, step: u64, entry: &[u8]) -> Result<()> {
        let mut summary = Vec::with_capacity(entry.len() + 8);
        bytes_field(&mut summary, 1, entry);
        let mut message = event(Some(step));
        bytes_field(&mut message, 5, &summary);
        self.write(&message)
    }

    fn write(&mut self, message: &[u8]) -> Result<()> {
        self.file.write_all(&record(message)).map_err(|error| Error::io(&self.path, error))
    }
}

/// The checksum of an event file's records: CRC-32C, rotated by 15 bits, plus a constant.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Length, its checksum, the message, its checksum.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(message.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(message);
    record.extend_from_slice(&masked_crc(message).to_le_bytes());
    record
}

/// An `Event` with its time and step.
fn event(step: Option<u64>) -> Vec<u8> {
    // Field 1, 64 bits: wall_time.
    let mut message = vec![(1 << 3) | 1];
    message.extend_from_slice(&system::now().as_secs_f64().to_le_bytes());
    if let Some(step) = step {
        varint_field(&mut message, 2, step);
    }
    message
}

fn varint_field(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push((field << 3) | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a file into messages and checks both checksums of each.
    fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let head_crc = u32::from_le_bytes(rest[8..12].try_into().unwrap());
            assert_eq!(head_crc, masked_crc(&rest[..8]));
            let message = &rest[12..12 + length];
            let crc = u32::from_le_bytes(rest[12 + length..16 + length].try_into().unwrap());
            assert_eq!(crc, masked_crc(message));
            messages.push(message.to_vec());
            rest = &rest[16 + length..];
        }
        messages
    }

    fn contains(haystack: &[u8], needle: &[u8]) -> bool {
        haystack.windows(needle.len()).any(|window| window == needle)
    }

    /// CRC-32C of "123456789" is the published check value; the mask is that of TensorFlow's record files.
    #[test]
    fn checksum_is_the_published_one() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn records_parse_and_hold_the_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 0).unwrap();
        writer.scalar(300, "train/loss", 0.5).unwrap();
        writer.image(301, "sheet", 2, 3, b"not really a png").unwrap();
        let found = messages(&std::fs::read(writer.path()).unwrap());
        assert_eq!(found.len(), 3);
        assert!(found[0].ends_with(b"brain.Event:2"));
        // Step 300 as a varint in field 2.
        assert_eq!(&found[1][9..12], [0x10, 0xac, 0x02]);
        assert!(contains(&found[1], b"\x0a\x0atrain/loss\x15\x00\x00\x00\x3f"));
        assert!(contains(&found[2], b"not really a png"));
        let name = writer.path().file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("events.out.tfevents."), "{name}");
    }

    #[test]
    fn a_restart_gets_its_own_file_and_says_where_it_starts() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventWriter::create(folder.path(), 0).unwrap();
        let second = EventWriter::create(folder.path(), 5).unwrap();
        assert_ne!(first.path(), second.path());
        let found = messages(&std::fs::read(second.path()).unwrap());
        assert!(found[1].ends_with(&[0x10, 6, 0x3a, 2, 0x08, 0x01]), "{:?}", found[1]);
    }
}
