//! Writing a file so that it is whole or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes a file so that a reader, now or after a crash, finds either the old content or all of the new.
///
/// `write` fills a temporary file in the same folder, which is flushed to the disk and then renamed over
/// `path`. When anything fails, the temporary file is removed and an earlier file at `path` is untouched.
/// A link is followed: the file it points to is replaced. A process killed while it writes can leave a
/// temporary file (`.NAME.*.tmp`) behind; nothing ever reads one.
///
/// # Errors
/// [`Error::Io`] with `path` when the folder does not exist, `write` fails, or the disk is full.
pub fn atomic_write(
    path: impl AsRef<Path>,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    replace(path, write).map_err(|source| Error::io(path, source))
}

fn replace(path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let target = resolve(path)?;
    let name = target
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let prefix = format!(".{}.", name.to_string_lossy());
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private by default; a weight file should be as readable as any other new
        // file (the process's mask still applies), or as the one it replaces.
        let mode = fs::metadata(&target).map_or(0o666, |old| old.permissions().mode() & 0o777);
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    let mut temporary = builder.tempfile_in(folder)?;
    {
        let mut buffered = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        write(&mut buffered)?;
        buffered.flush()?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(&target).map_err(|failed| failed.error)?;
    sync_folder(folder)
}

/// Where the bytes shall end up: `path`, or what it links to.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_symlink() => fs::canonicalize(path),
        _ => Ok(path.to_path_buf()),
    }
}

/// Makes the rename itself survive a power cut. Only Unix can open a folder for that.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank.safetensors");
        atomic_write(&path, &mut |w| w.write_all(b"first")).unwrap();
        let error = atomic_write(&path, &mut |w| {
            w.write_all(&vec![7; 3 << 20])?;
            Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"))
        })
        .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("bank.safetensors") && text.contains("no space left"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(entries(folder.path()), ["bank.safetensors"]);
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent/model.safetensors");
        let error = atomic_write(&path, &mut |w| w.write_all(b"x")).unwrap_err();
        assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_full_disk_is_an_error_and_leaves_nothing() {
        // `/dev/full` takes no byte. It cannot be renamed over, so the writer forwards to it.
        let Ok(mut full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let error = atomic_write(&path, &mut |_| full.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{error}");
        assert!(entries(folder.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_modes_are_kept() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, b"old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        atomic_write(&link, &mut |w| w.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
