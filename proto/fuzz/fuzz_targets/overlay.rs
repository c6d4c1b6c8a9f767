//! Any bytes are a datagram or a named error; what is read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::overlay::{Builder, Datagram, Frame};

fuzz_target!(|bytes: &[u8]| {
    let Ok(datagram) = Datagram::decode(bytes) else { return };
    if let Some(probe) = datagram.probe() {
        let Ok(probe) = probe else { return };
        let again = probe.encode(&datagram.header);
        let again = Datagram::decode(&again).expect("what was written is read").probe();
        assert_eq!(again, Some(Ok(probe)));
        return;
    }
    let frames: Vec<Frame<'_>> = datagram.frames().map_while(Result::ok).collect();
    let mut builder = Builder::new(bytes.len() + 32);
    for frame in &frames {
        builder.push(frame).expect("what was read fits");
    }
    let again = builder.finish(&datagram.header);
    let again = Datagram::decode(&again).expect("what was written is read");
    assert_eq!(again.header, datagram.header);
    assert_eq!(again.frames().collect::<Result<Vec<_>, _>>().expect("all frames"), frames);
});
