//! Bringing the content of a file here, in as many attempts as it takes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::answer::{Facts, first_byte, header};
use super::cache::create_parent;
use super::client::{Client, Failure, answer, connection};
use super::options::Progress;
use crate::{Error, HubFile, Result};

/// Attempts that bring less do not renew the patience.
const WORTHWHILE: u64 = 1 << 20;

const CHUNK: usize = 1 << 16;

/// Downloads the content to `blob`, continuing what an earlier call left beside it. The caller holds the lock.
pub(super) fn download(client: &Client<'_>, facts: &Facts, file: &HubFile, blob: &Path) -> Result<()> {
    create_parent(blob)?;
    let mut part = Part::open(blob)?;
    // What an earlier call left may not be what it should be; then it is worth starting again.
    let mut inherited = part.len > 0;
    loop {
        fill(client, facts, file, &mut part)?;
        match part.check(facts, file) {
            Ok(()) => return part.become_blob(blob),
            Err(Error::Digest { .. }) if inherited => {
                inherited = false;
                part.restart()?;
            }
            Err(error) => {
                part.remove();
                return Err(error);
            }
        }
    }
}

fn fill(client: &Client<'_>, facts: &Facts, file: &HubFile, part: &mut Part) -> Result<()> {
    if part.len > facts.size {
        part.restart()?;
    }
    let mut patience = client.patience();
    let mut best = part.len;
    while part.len < facts.size {
        if let Err(failure) = receive(client, facts, file, part) {
            if part.len >= best.saturating_add(WORTHWHILE) {
                best = part.len;
                patience.renew();
            }
            patience.after(failure)?;
        }
    }
    report(client, facts, file, part);
    Ok(())
}

/// One attempt. What it brings stays, also when it fails.
fn receive(
    client: &Client<'_>,
    facts: &Facts,
    file: &HubFile,
    part: &mut Part,
) -> std::result::Result<(), Failure> {
    let sent = client.content(file, &facts.commit, part.len);
    let (url, response) = match sent {
        // The server has less than what is here.
        Err(Failure::Passing(error)) if is_unsatisfiable(&error) => {
            part.restart()?;
            return Err(Failure::Passing(error));
        }
        other => other?,
    };
    let headers = response.headers();
    if let Some(encoding) = header(headers, "content-encoding").filter(|&encoding| encoding != "identity") {
        return Err(answer(&url, format!("it sends the content as {encoding}, though asked not to")));
    }
    let first = first_byte(response.status(), headers, part.len, facts.size);
    if first.map_err(|problem| answer(&url, problem))? != part.len {
        part.restart()?;
    }
    let mut body = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(problem) if problem.kind() == io::ErrorKind::Interrupted => continue,
            Err(problem) => return Err(connection(&url, problem.into())),
        };
        if read as u64 > facts.size.saturating_sub(part.len) {
            return Err(answer(&url, format!("it sends more than the {} bytes it announced", facts.size)));
        }
        part.append(chunk.get(..read).unwrap_or_default())?;
        if part.len < facts.size {
            report(client, facts, file, part);
        }
    }
    if part.len < facts.size {
        let (expected, got) = (facts.size, part.len);
        return Err(Failure::Passing(Error::Incomplete { url: url.to_string(), expected, got }));
    }
    Ok(())
}

fn is_unsatisfiable(error: &Error) -> bool {
    matches!(error, Error::Status { status, .. } if *status == StatusCode::RANGE_NOT_SATISFIABLE.as_u16())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn report(client: &Client<'_>, facts: &Facts, file: &HubFile, part: &Part) {
    if let Some(progress) = &client.options.progress {
        progress(Progress { file: file.file(), done: part.len, total: facts.size });
    }
}

/// The beginning of a content.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Part {
    /// What is there of `blob`.
    fn open(blob: &Path) -> Result<Self> {
        let mut path = blob.to_path_buf();
        path.as_mut_os_string().push(".incomplete");
        let open = || {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            let len = file.seek(SeekFrom::End(0))?;
            Ok((file, len))
        };
        let (file, len) = open().map_err(|source| Error::io(&path, source))?;
        Ok(Self { path, file, len })
    }

    fn restart(&mut self) -> Result<()> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.rewind());
        cleared.map_err(|source| Error::io(&self.path, source))?;
        self.len = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| Error::io(&self.path, source))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Compares the digest of what is on the disk with the one that the hub states, if it does.
    fn check(&mut self, facts: &Facts, file: &HubFile) -> Result<()> {
        let Some(expected) = facts.sha256() else { return Ok(()) };
        let mut digest = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        self.file.rewind().map_err(|source| Error::io(&self.path, source))?;
        loop {
            match self.file.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => digest.update(chunk.get(..read).unwrap_or_default()),
                Err(problem) if problem.kind() == io::ErrorKind::Interrupted => {}
                Err(problem) => return Err(Error::io(&self.path, problem)),
            }
        }
        let got = hex(&digest.finalize());
        if got == expected {
            return Ok(());
        }
        Err(Error::Digest { file: file.to_string(), expected: expected.to_owned(), got })
    }

    fn become_blob(self, blob: &Path) -> Result<()> {
        self.file.sync_all().map_err(|source| Error::io(&self.path, source))?;
        fs::rename(&self.path, blob).map_err(|source| Error::io(blob, source))
    }

    /// Nothing can be done about a file that cannot be removed; the next call will check it again.
    fn remove(self) {
        drop(fs::remove_file(&self.path));
    }
}
