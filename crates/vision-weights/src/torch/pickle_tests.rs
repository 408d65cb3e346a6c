use super::*;
use crate::torch::flatten::flatten;
use crate::torch::input::little_endian;

fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
    super::parse(bytes, &rebuild::persistent)
}

/// A pickle of protocol 2 from its body.
fn pickled(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

fn metadata(body: &[u8]) -> Vec<(String, String)> {
    let bytes = pickled(body);
    flatten(&parse(&bytes).unwrap()).unwrap().metadata.into_iter().collect()
}

fn failure(body: &[u8]) -> String {
    match parse(&pickled(body)) {
        Ok(pickle) => flatten(&pickle).unwrap_err().what,
        Err(problem) => problem.what,
    }
}

#[test]
fn literals_of_every_protocol() {
    // {"a": 1, "b": True, "c": -2.5, "d": "x", "e": (300, -1)}
    let new = metadata(b"}(X\x01\0\0\0aK\x01X\x01\0\0\0b\x88X\x01\0\0\0cG\xc0\x04\0\0\0\0\0\0X\x01\0\0\0dX\x01\0\0\0xX\x01\0\0\0eM\x2c\x01J\xff\xff\xff\xff\x86u");
    let old = metadata(b"(dS'a'\nI1\nsS'b'\nI01\nsS'c'\nF-2.5\nsS'd'\nVx\nsS'e'\n(I300\nL-1L\nts");
    let want = [("a", "1"), ("b", "true"), ("c", "-2.5"), ("d", "x"), ("e.0", "300"), ("e.1", "-1")];
    let want: Vec<_> = want.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(new, want);
    assert_eq!(old, want);
}

#[test]
fn long_integers() {
    assert_eq!(little_endian(b""), Value::Int(0));
    assert_eq!(little_endian(b"\xff"), Value::Int(-1));
    assert_eq!(little_endian(b"\xff\x00"), Value::Int(255));
    assert_eq!(little_endian(&[0xff; 8]), Value::Int(-1));
    assert_eq!(little_endian(&[1; 9]), Value::Other);
}

#[test]
fn calls_are_inert() {
    // os.system("touch x"), protocol 2; then the same through INST and NEWOBJ.
    let bytes = pickled(b"cposix\nsystem\nX\x07\0\0\0touch x\x85R");
    let pickle = parse(&bytes).unwrap();
    assert!(matches!(pickle.nodes.last(), Some(Node::Object { state: None, .. })));
    assert!(flatten(&pickle).unwrap().metadata.is_empty());
    assert!(parse(b"(S'touch x'\niposix\nsystem\n.").is_ok());
    assert!(parse(&pickled(b"cposix\nsystem\n)\x81")).is_ok());
}

#[test]
fn self_reference_ends() {
    // l = []; l.append(l); l.append(7)
    assert_eq!(metadata(b"]q\x00h\x00aK\x07a"), [("1".to_owned(), "7".to_owned())]);
}

#[test]
fn explosions_are_refused() {
    // Every level holds the level below twice.
    let mut body = b"]q\x00K\x01a".to_vec();
    for level in 1..60u8 {
        body.extend([b']', b'q', level, b'(', b'h', level - 1, b'h', level - 1, b'e']);
    }
    assert!(failure(&body).contains("too often"));
    let deep = [vec![b']'; 10_000], vec![b'a'; 9_999]].concat();
    assert!(failure(&deep).contains("deeper"));
}

#[test]
fn broken_pickles_say_what_is_wrong() {
    assert!(failure(b"X\xff\xff\xff\x7fa").contains("announced"));
    assert!(failure(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff").contains("announced"));
    assert!(failure(b"\x95\xff\0\0\0\0\0\0\0").contains("frame"));
    assert!(failure(b"h\x07").contains("memo 7"));
    assert!(failure(b"R").contains("stack is empty"));
    assert!(failure(b"K\x01(0R").contains("stack is empty"));
    assert!(failure(b"t").contains("no mark"));
    assert!(failure(b"}(K\x01u").contains("without a value"));
    assert!(failure(b"K\x01K\x02a").contains("plain value"));
    assert!(failure(b"\xfe").contains("unknown opcode 0xfe"));
    assert!(failure(b"ctorch._utils\n_rebuild_tensor_v2\n)R").contains("0 arguments"));
    assert!(parse(b"").is_err());
    assert_eq!(parse(b"\x80\x06.").unwrap_err().offset, 0);
}

#[test]
fn what_follows_a_pickle_is_left() {
    let bytes = [pickled(b"K\x07"), pickled(b"K\x08")].concat();
    let first = parse(&bytes).unwrap();
    assert_eq!((first.root, first.len), (Value::Int(7), 5));
}

#[test]
fn arguments_are_not_copied_beyond_measure() {
    // One tuple of 64 sizes, used by call after call of three bytes.
    let mut body = b"ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\x000NK\x01NtQK\0("
        .to_vec();
    body.extend([b'K', 1].repeat(64));
    body.extend(b"tq\x012tq\x020");
    body.extend(b"h\x00h\x02R".repeat(1000));
    assert!(failure(&body).contains("too often"), "{}", failure(&body));
}

#[test]
fn persistent_ids_are_asked_for() {
    let load = |_: &[Node<'static>], id: Value<'static>| match id {
        Value::Int(7) | Value::Str("7") => Ok(Node::Sequence(vec![id])),
        _ => Err("no such id".to_owned()),
    };
    assert!(super::parse(b"K\x07Q.", &load).is_ok());
    assert!(super::parse(b"P7\n.", &load).is_ok());
    assert_eq!(super::parse(b"NQ.", &load).unwrap_err().what, "no such id");
}
