//! What is between the driver and the device: the features that the device offers.

mod common;

use common::ringlet::Ringlet;

#[test]
fn the_device_offers_what_it_is_told_to() {
    needs_kvm!();
    let names = |flags: &[&str]| {
        let ringlet = Ringlet::start(&[&["--publish", "0:10.0.0.100:80"], flags].concat());
        let boot = ringlet.seen.iter().find(|record| record["type"] == "boot").expect("a boot record");
        let names = boot["feature_names"].to_string();
        // And it works with that.
        let reply = common::http::get(ringlet.host("10.0.0.100:80"), "/").expect("a reply");
        assert!(reply.contains("10.0.0.1"), "{reply}");
        assert_eq!(ringlet.interrupt(), 0);
        names
    };
    assert!(names(&[]).contains("mrg_rxbuf"));
    let fewer = names(&["--device-features", "-mrg_rxbuf,-event_idx"]);
    assert!(!fewer.contains("mrg_rxbuf") && !fewer.contains("event_idx") && fewer.contains("csum"), "{fewer}");
    let bare = names(&["--device-features", "-all,+mac"]);
    assert!(bare.contains("version_1") && !bare.contains("csum"), "{bare}");
}
