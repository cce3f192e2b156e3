//! A line of a watch of the Kubernetes API, cut anywhere: whatever the server sends, it is an object, a refusal that can be shown, or
//! no line; and what is kept of an object is the same when it comes back from the disk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtls_daemon::kube::objects::{
    AuthorizationPolicy, EndpointSlice, Kind, MutualTlsPolicy, Namespace, Node, PeerAuthentication, Pod,
    Service,
};
use mtls_daemon::kube::{Splitter, object_in_line};

fn judge<K: Kind + std::fmt::Debug>(line: &[u8]) {
    match object_in_line::<K>(line) {
        Ok(Some(object)) => {
            let text = serde_json::to_string(&object).expect("an object can be written");
            let back: K = serde_json::from_str(&text).expect("what was written can be read");
            assert!(back == object, "{object:?} came back as {back:?}");
        }
        Ok(None) => {}
        Err(error) => drop(error.to_string()),
    }
}

fuzz_target!(|input: &[u8]| {
    // The first byte says where the bytes are cut on their way.
    let Some((cut, bytes)) = input.split_first() else { return };
    let mut splitter = Splitter::default();
    for piece in bytes.chunks(usize::from(*cut) + 1) {
        splitter.push(piece);
        while let Ok(Some(line)) = splitter.next_line() {
            let line = line.to_vec();
            judge::<Pod>(&line);
            judge::<Namespace>(&line);
            judge::<Node>(&line);
            judge::<Service>(&line);
            judge::<EndpointSlice>(&line);
            judge::<PeerAuthentication>(&line);
            judge::<AuthorizationPolicy>(&line);
            judge::<MutualTlsPolicy>(&line);
        }
    }
});
