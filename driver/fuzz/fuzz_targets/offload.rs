//! Frames and headers of any kind, to be segmented, fragmented, finished and taken for coalesced. `cargo fuzz run offload` in
//! `driver`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlet_driver::offload::{Finish, Headers, Segmenter, check, coalesced, finish_checksum};
use ringlet_driver::wire::NetHdr;

fuzz_target!(|input: &[u8]| {
    let Some((header, frame)) = input.split_first_chunk::<{ NetHdr::LEN }>() else { return };
    let given = NetHdr::parse(header);
    let mut frame = frame.to_vec();
    // As often as not, what the frame itself says is right.
    let header = match Headers::parse(&frame).filter(|_| given.num_buffers & 1 == 0) {
        Some(headers) => {
            let (start, offset) = (headers.transport_start as u16, headers.transport.checksum_offset());
            NetHdr { gso_type: given.gso_type, gso_size: given.gso_size, ..NetHdr::partial_checksum(start, offset) }
        }
        None => given,
    };
    if let Ok(Some(headers)) = check(&header, &frame, frame.len()) {
        assert_eq!(Headers::parse(&frame), Some(headers));
        assert!(headers.length < frame.len());
    }
    if header.needs_csum() {
        let _ = finish_checksum(&frame[..], header.csum_start, header.csum_offset);
    }
    for finish in [Finish::Complete, Finish::Partial] {
        let Ok(segmenter) = Segmenter::new(&header, &frame, &frame[..], finish) else { continue };
        let mut segmenter = segmenter.identified(u32::from(given.hdr_len));
        let headers = Headers::parse(&frame).expect("it can be cut");
        let (count, mut made, mut payload) = (segmenter.count(), 0, Vec::new());
        let mut into = vec![0; 1 << 17];
        while let Some(length) = segmenter.next_len() {
            assert_eq!(segmenter.write_next(&frame[..], &mut into[..]).map(|(length, _)| length), Some(length));
            made += 1;
            if header.gso_type != NetHdr::GSO_UDP {
                assert_eq!(Headers::parse(&into[..length]), Some(headers));
                payload.extend_from_slice(&into[headers.length..length]);
            }
        }
        assert_eq!((made, segmenter.left()), (count, 0));
        assert!(header.gso_type == NetHdr::GSO_UDP || payload == frame[headers.length..]);
    }
    let length = frame.len();
    if let Ok(made) = coalesced(&given, &mut frame, length) {
        assert!(made.length <= length && (!made.header.is_gso() || made.header.gso_size > 0));
        // What stands for several has no data, and its checksum is complete.
        if made.header.duplicate_acks() > 0 {
            let headers = Headers::parse(&frame).expect("it is TCP");
            assert_eq!(headers.packet_end(&frame), headers.length);
            assert!(!made.header.needs_csum() && !made.header.is_gso());
        }
    }
});
