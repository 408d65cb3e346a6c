//! Downloads from a server on this machine that plays the hub, or fails to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop on the first surprise")]

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use server::{Reply, Request, Server};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use vision_weights::hub::{self, HubOptions};
use vision_weights::{Array, Error, StateDict, open};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILE: &str = "model.safetensors";

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A weight file of some 40 kB.
fn content() -> Vec<u8> {
    let values: Vec<f32> = (0..10_000u16).map(f32::from).collect();
    let mut state = StateDict::new();
    state.insert("fc.weight", Array::from_f32([100, 100], &values).unwrap());
    state.to_bytes().unwrap()
}

/// What a hub says about a large file.
fn facts(content: &[u8]) -> Reply {
    Reply::new(200)
        .header("x-repo-commit", COMMIT)
        .header("x-linked-size", content.len())
        .header("x-linked-etag", format!("\"{}\"", digest(content)))
        .header("etag", "\"of-the-pointer\"")
}

/// A hub that says the truth about `content` and sends what `send` makes of the requests, counted from 0.
fn hub(content: Vec<u8>, send: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Server {
    let sent = AtomicUsize::new(0);
    Server::start(move |request| match request.method.as_str() {
        "HEAD" => facts(&content),
        _ => send(sent.fetch_add(1, Ordering::SeqCst), request),
    })
}

fn options(server: &str, cache: &TempDir) -> HubOptions {
    HubOptions {
        cache_dir: Some(cache.path().to_path_buf()),
        endpoint: server.to_owned(),
        retries: 0,
        timeout: Duration::from_secs(5),
        ..HubOptions::default()
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn fetch(options: &HubOptions) -> vision_weights::Result<PathBuf> {
    hub::fetch("owner/name", FILE, "main", options)
}

fn repo(cache: &TempDir) -> PathBuf {
    cache.path().join("models--owner--name")
}

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn a_file_arrives_once_and_is_kept_as_others_keep_it() {
    let content = content();
    let stored = content.clone();
    let store = Server::start(move |request| Reply::content(request, &stored));
    let (told, elsewhere) = (content.clone(), format!("{}/signed?x=1", store.address));
    let server = Server::start(move |request| match request.path.as_str() {
        // A repository that has moved.
        "/owner/name/resolve/main/sub%20folder/model.safetensors" => {
            Reply::new(307).header("location", "/new")
        }
        _ => Reply { status: 302, ..facts(&told) }.header("location", &elsewhere),
    });
    let cache = folder();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let options = HubOptions {
        token: Some("hf_secret".to_owned()),
        progress: Some(Arc::new(move |step| log.lock().unwrap().push((step.done, step.total)))),
        ..options(&server.address, &cache)
    };
    let path = hub::resolve("hf:owner/name/sub folder/model.safetensors", &options).unwrap();
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(open(&path).unwrap().read("fc.weight").unwrap().to_f32().unwrap()[9999], 9999.0);

    // The layout.
    assert_eq!(path, repo(&cache).join("snapshots").join(COMMIT).join("sub folder/model.safetensors"));
    assert_eq!(files(&repo(&cache).join("blobs")), [digest(&content)]);
    assert_eq!(fs::read_to_string(repo(&cache).join("refs/main")).unwrap(), COMMIT);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(&path).unwrap(),
        Path::new("../../../blobs").join(digest(&content)),
        "links are relative"
    );

    // The token stayed with the hub.
    assert!(
        server.requests().iter().all(|request| request.header("authorization") == Some("Bearer hf_secret"))
    );
    assert!(!store.requests().is_empty());
    assert!(store.requests().iter().all(|request| request.header("authorization").is_none()));
    let steps = seen.lock().unwrap().clone();
    let total = content.len() as u64;
    assert!(steps.is_sorted() && steps.last() == Some(&(total, total)), "{steps:?}");

    // The second call asks nobody.
    let requests = server.requests().len();
    assert_eq!(hub::resolve("hf:owner/name/sub folder/model.safetensors", &options).unwrap(), path);
    assert_eq!(server.requests().len(), requests);
    drop(server);
    let offline = HubOptions { offline: true, ..options };
    assert_eq!(hub::resolve("hf:owner/name/sub folder/model.safetensors@main", &offline).unwrap(), path);
    let by_commit = format!("hf:owner/name/sub folder/model.safetensors@{COMMIT}");
    assert_eq!(hub::resolve(&by_commit, &offline).unwrap(), path);
    assert_eq!(hub::resolve("some/path.pth", &offline).unwrap(), Path::new("some/path.pth"));
}

#[test]
fn a_cut_connection_is_continued() {
    let content = content();
    let half = content.len() / 2;
    let whole = content.clone();
    let server = hub(content.clone(), move |n, request| match n {
        0 => Reply::content(request, &whole).cut(half),
        _ => Reply::content(request, &whole),
    });
    let cache = folder();
    let path = fetch(&HubOptions { retries: 1, ..options(&server.address, &cache) }).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    let asked: Vec<_> = server.requests().iter().filter(|r| r.method == "GET").map(Request::from).collect();
    assert_eq!(asked, [None, Some(half)]);
    // The content of the commit is asked for, not what the branch is by now.
    assert!(server.requests().iter().any(|request| request.path.contains(COMMIT)));
}

#[test]
fn a_later_call_continues_an_earlier_one() {
    let content = content();
    let half = content.len() / 2;
    let whole = content.clone();
    let server = hub(content.clone(), move |n, request| match n {
        0 => Reply::content(request, &whole).cut(half),
        _ => Reply::content(request, &whole),
    });
    let cache = folder();
    let options = options(&server.address, &cache);
    let error = fetch(&options).unwrap_err();
    assert!(matches!(error, Error::Connection { .. } | Error::Incomplete { .. }), "{error}");
    assert_eq!(files(&repo(&cache).join("blobs")), [format!("{}.incomplete", digest(&content))]);
    assert!(files(&repo(&cache).join("snapshots")).is_empty());
    assert_eq!(fs::read(fetch(&options).unwrap()).unwrap(), content);
    assert_eq!(server.requests().last().unwrap().from(), Some(half));
    assert_eq!(files(&repo(&cache).join("blobs")), [digest(&content)]);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let content = content();
    let whole = content.clone();
    let server = hub(content.clone(), move |n, _| match n {
        0 => Reply::new(200).body(&whole).cut(1000),
        _ => Reply::new(200).body(&whole),
    });
    let cache = folder();
    let path = fetch(&HubOptions { retries: 1, ..options(&server.address, &cache) }).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(server.requests().last().unwrap().from(), Some(1000));
}

#[test]
fn what_an_earlier_call_left_is_checked() {
    let content = content();
    for left in [vec![0; 100], vec![0; content.len()], vec![0; content.len() + 1]] {
        let whole = content.clone();
        let server = hub(content.clone(), move |_, request| Reply::content(request, &whole));
        let cache = folder();
        let blobs = repo(&cache).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.incomplete", digest(&content))), left).unwrap();
        let path = fetch(&options(&server.address, &cache)).unwrap();
        assert_eq!(fs::read(path).unwrap(), content);
    }
}

#[test]
fn wrong_content_is_not_kept() {
    let mut other = content();
    other[20_000] ^= 1;
    let server = hub(content(), move |_, request| Reply::content(request, &other));
    let cache = folder();
    let error = fetch(&options(&server.address, &cache)).unwrap_err();
    assert!(matches!(&error, Error::Digest { expected, .. } if *expected == digest(&content())), "{error}");
    assert!(error.to_string().contains("hf:owner/name/model.safetensors"), "{error}");
    assert!(files(&repo(&cache).join("blobs")).is_empty());
    assert!(files(&repo(&cache).join("snapshots")).is_empty());
}

#[test]
fn lengths_that_do_not_agree() {
    let content = content();
    let server = |send: fn(&Request, &[u8]) -> Reply| {
        let whole = content.clone();
        hub(content.clone(), move |_, request| send(request, &whole))
    };
    let error = |server: &Server| fetch(&options(&server.address, &folder())).unwrap_err();
    // Announced wrongly.
    let long = server(|_, whole| Reply::new(200).body(&[whole, b"more"].concat()));
    assert!(matches!(error(&long), Error::Answer { .. }));
    let short = server(|_, whole| Reply::new(200).body(&whole[..100]));
    assert!(matches!(error(&short), Error::Answer { .. }));
    let part = server(|_, whole| {
        Reply::new(206).header("content-range", format!("bytes 5-9/{}", whole.len())).body(&whole[5..10])
    });
    assert!(matches!(error(&part), Error::Answer { .. }));
    let packed = server(|request, whole| Reply::content(request, whole).header("content-encoding", "gzip"));
    assert!(matches!(error(&packed), Error::Answer { .. }));
    // Not announced, so that the end of the connection is the end.
    let ends = server(|_, whole| Reply { body: whole[..100].to_vec(), ..Reply::new(200) });
    let expected = content.len() as u64;
    let found = error(&ends);
    assert!(matches!(found, Error::Incomplete { got: 100, expected: e, .. } if e == expected), "{found}");
    let more = server(|_, whole| Reply { body: [whole, b"more"].concat(), ..Reply::new(200) });
    assert!(matches!(error(&more), Error::Answer { .. }));
}

#[test]
fn refusals() {
    for (status, retried) in
        [(401, false), (403, false), (404, false), (410, false), (500, true), (429, true)]
    {
        let server = Server::start(move |_| Reply::new(status).body(b""));
        let cache = folder();
        let error = fetch(&HubOptions { retries: 1, ..options(&server.address, &cache) }).unwrap_err();
        assert!(matches!(&error, Error::Status { status: s, .. } if *s == status), "{error}");
        assert!(error.to_string().contains("/owner/name/resolve/main/model.safetensors"), "{error}");
        assert_eq!(server.count("HEAD"), 1 + usize::from(retried), "{status}");
        assert!(!repo(&cache).exists());
    }
    let server =
        Server::start(|_| Reply::new(403).header("x-error-message", "Ask the author first").body(b""));
    let error = fetch(&options(&server.address, &folder())).unwrap_err();
    assert!(error.to_string().ends_with("status 403: Ask the author first"), "{error}");
    // The content may be refused, too.
    let server = hub(content(), |_, _| Reply::new(403).body(b""));
    assert!(matches!(fetch(&options(&server.address, &folder())), Err(Error::Status { status: 403, .. })));
}

#[test]
fn a_passing_refusal_passes() {
    let asked = AtomicUsize::new(0);
    let content = content();
    let whole = content.clone();
    let server = Server::start(move |request| match asked.fetch_add(1, Ordering::SeqCst) {
        0 | 2 => Reply::new(503).body(b""),
        1 => facts(&whole),
        _ => Reply::content(request, &whole),
    });
    let cache = folder();
    let path = fetch(&HubOptions { retries: 1, ..options(&server.address, &cache) }).unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[test]
fn a_server_that_is_not_there_or_says_nothing() {
    let gone = Server::start(|_| Reply::new(200)).address.clone();
    let error = fetch(&HubOptions { retries: 1, ..options(&gone, &folder()) }).unwrap_err();
    assert!(matches!(&error, Error::Connection { attempts: 2, .. }), "{error}");
    assert!(error.to_string().contains(&gone), "{error}");

    let cache = folder();
    let silent = Server::start(|_| Reply { silent: true, ..Reply::new(200) });
    let hasty = HubOptions { timeout: Duration::from_millis(200), ..options(&silent.address, &cache) };
    // Headers come, but without what a hub says.
    assert!(matches!(fetch(&hasty), Err(Error::Answer { .. })));

    let content = content();
    let whole = content.clone();
    let stops =
        hub(content, move |_, request| Reply { silent: true, ..Reply::content(request, &whole).cut(500) });
    let hasty = HubOptions { endpoint: stops.address.clone(), ..hasty };
    let error = fetch(&hasty).unwrap_err();
    assert!(matches!(&error, Error::Connection { .. }) && error.to_string().contains("timeout"), "{error}");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("http://{}", listener.local_addr().unwrap());
    let error = fetch(&HubOptions { endpoint: mute, ..hasty }).unwrap_err();
    assert!(matches!(&error, Error::Connection { .. }) && error.to_string().contains("timeout"), "{error}");
}

#[test]
fn offline_says_what_is_missing_and_where() {
    let cache = folder();
    let options = HubOptions { offline: true, ..options("http://127.0.0.1:1", &cache) };
    let error = fetch(&options).unwrap_err();
    assert!(matches!(&error, Error::NotCached { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("hf:owner/name/model.safetensors"), "{text}");
    assert!(text.contains(&cache.path().display().to_string()), "{text}");
    assert!(files(cache.path()).is_empty());
}

#[cfg(unix)]
#[test]
fn the_cache_of_python_is_read() {
    // As huggingface_hub 2.4 lays it.
    let cache = folder();
    let repo = repo(&cache);
    let snapshot = repo.join("snapshots").join(COMMIT);
    for folder in [repo.join("blobs"), repo.join("refs/pr"), snapshot.clone()] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repo.join("blobs/e1"), content()).unwrap();
    std::os::unix::fs::symlink("../../blobs/e1", snapshot.join(FILE)).unwrap();
    std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("gone.pth")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    fs::write(repo.join("refs/pr/1"), COMMIT).unwrap();
    let options = HubOptions { offline: true, ..options("http://127.0.0.1:1", &cache) };
    for revision in ["main", "pr/1", COMMIT] {
        let path = hub::fetch("owner/name", FILE, revision, &options).unwrap();
        assert_eq!(path, snapshot.join(FILE));
    }
    for (file, revision) in
        [("other.pth", "main"), ("gone.pth", "main"), (FILE, "pr"), (FILE, "v1"), (FILE, "blobs")]
    {
        let result = hub::fetch("owner/name", file, revision, &options);
        assert!(matches!(result, Err(Error::NotCached { .. })), "{file} {revision}: {result:?}");
    }
    fs::write(repo.join("refs/bad"), "../../..").unwrap();
    assert!(matches!(hub::fetch("owner/name", FILE, "bad", &options), Err(Error::Format { .. })));
}

#[test]
fn content_that_is_there_under_another_revision_is_not_sent_again() {
    let content = content();
    let whole = content.clone();
    let server = hub(content.clone(), move |_, request| Reply::content(request, &whole));
    let cache = folder();
    let options = options(&server.address, &cache);
    let first = fetch(&options).unwrap();
    assert_eq!(hub::fetch("owner/name", FILE, "refs/pr/1", &options).unwrap(), first);
    assert_eq!(
        hub::fetch("owner/name", "copy.safetensors", "main", &options).unwrap().parent(),
        first.parent()
    );
    assert_eq!((server.count("HEAD"), server.count("GET")), (3, 1));
    assert_eq!(fs::read_to_string(repo(&cache).join("refs/refs/pr/1")).unwrap(), COMMIT);
    // A link without content is made anew.
    fs::remove_file(repo(&cache).join("blobs").join(digest(&content))).unwrap();
    assert_eq!(fs::read(fetch(&options).unwrap()).unwrap(), content);
    assert_eq!(server.count("GET"), 2);
}

#[test]
fn who_wants_the_same_file_waits() {
    let content = content();
    let whole = content.clone();
    let server = hub(content.clone(), move |_, request| {
        std::thread::sleep(Duration::from_millis(100));
        Reply::content(request, &whole)
    });
    let cache = folder();
    let options = options(&server.address, &cache);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| fetch(&options).unwrap())).collect();
        for one in all {
            assert_eq!(fs::read(one.join().unwrap()).unwrap(), content);
        }
    });
    assert_eq!(server.count("GET"), 1);
}

#[test]
fn answers_that_would_leave_the_cache_are_refused() {
    for (name, value) in
        [("x-linked-etag", "../../../evil"), ("x-repo-commit", "../evil"), ("x-linked-size", "many")]
    {
        let server = Server::start(move |_| {
            let mut reply = facts(b"x");
            reply.headers.retain(|(known, _)| *known != name);
            reply.header(name, value)
        });
        let cache = folder();
        let error = fetch(&options(&server.address, &cache)).unwrap_err();
        assert!(matches!(&error, Error::Answer { .. }), "{error}");
        assert!(files(cache.path()).is_empty());
    }
    let circle = Server::start(|_| Reply::new(302).header("location", "/again").body(b""));
    let error = fetch(&options(&circle.address, &folder())).unwrap_err();
    assert!(error.to_string().contains("redirects again"), "{error}");
    let plain = Server::start(|_| Reply::new(200).body(b"<html>a web page</html>"));
    assert!(matches!(fetch(&options(&plain.address, &folder())), Err(Error::Answer { .. })));
    let nowhere = HubOptions { cache_dir: Some(folder().path().into()), ..HubOptions::default() };
    for endpoint in ["", "ftp://x", "hub.example", "http://"] {
        let error = fetch(&HubOptions { endpoint: endpoint.to_owned(), ..nowhere.clone() }).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{endpoint}: {error}");
    }
}

#[test]
fn an_empty_file_and_one_without_digest() {
    for content in [b"".as_slice(), b"{}"] {
        let server = Server::start(move |request| match request.method.as_str() {
            // A small file: no link, the digest of git.
            "HEAD" => Reply::new(200)
                .header("x-repo-commit", COMMIT)
                .header("etag", "\"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\"")
                .body(content),
            _ => Reply::content(request, content),
        });
        let cache = folder();
        let path =
            hub::fetch("owner/name", "config.json", "main", &options(&server.address, &cache)).unwrap();
        assert_eq!(fs::read(path).unwrap(), content);
    }
}
