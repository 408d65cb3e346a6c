//! A server that behaves as well or as badly as a test wants.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte asked for.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What to send back. Connections are closed after one answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Sends so much of the body only.
    pub(crate) cut: Option<usize>,
    /// Keeps the connection open and says nothing more.
    pub(crate) silent: bool,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.headers.push((name, value.into().0));
        self
    }

    /// With its length.
    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("content-length", body.len())
    }

    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }

    /// The content from the byte on that is asked for.
    pub(crate) fn content(request: &Request, content: &[u8]) -> Self {
        match request.from() {
            Some(from) if from >= content.len() => Self::new(416).body(b""),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
                Self::new(206).header("content-range", range).body(&content[from..])
            }
            None => Self::new(200).body(content),
        }
    }
}

/// A header's value.
pub(crate) struct Value(String);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self(text.clone())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self(number.to_string())
    }
}

/// A running server; it ends when it is dropped.
pub(crate) struct Server {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (log, end, handler) = (Arc::clone(&requests), Arc::clone(&ended), Arc::new(handler));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                thread::spawn(move || serve(stream.unwrap(), &log, &*handler));
            }
        });
        Self { address: format!("http://127.0.0.1:{port}"), requests, ended }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests of a method came.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.requests().iter().filter(|request| request.method == method).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the loop up.
        drop(TcpStream::connect(self.address.trim_start_matches("http://")));
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, handler: &dyn Fn(&Request) -> Reply) {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines[0].split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let header = |line: &String| line.split_once(": ").map(|(name, v)| (name.to_lowercase(), v.to_owned()));
    let request = Request { method, path, headers: lines[1..].iter().filter_map(header).collect() };
    log.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head += "\r\n";
    let mut stream = reader.into_inner();
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    let body = if request.method == "HEAD" { &[] } else { body };
    // The other side may have hung up.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).and_then(|()| stream.flush());
    if reply.silent {
        let _ = stream.read(&mut [0]);
    }
}
