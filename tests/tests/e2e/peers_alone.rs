//! The peers without us: what fails here is no fault of the mesh, and what is measured here is
//! the most that a mesh in between can reach.

use std::net::IpAddr;
use std::time::Duration;

use chaos::speech::Voice;
use tests::peers::baresip::{Phone, SPEECH};
use tests::peers::quality::pesq;
use tests::peers::sipp::Sipp;

use crate::run;

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 250, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 250, 2));

#[test]
fn baresip_hears_baresip() {
    run(async {
        let dir = tempfile::tempdir()?;
        for (codec, codecs) in [("opus", &["opus/48000/1"]), ("PCMU", &["PCMU/8000/1"])] {
            let dir = dir.path().join(codec);
            let mut anna = Phone { codecs, ..Phone::new("anna", A, 40_000) }.start(&dir).await?;
            let phone = Phone { codecs, voice: Voice::Spanish, ..Phone::new("bert", B, 40_200) };
            let mut bert = phone.start(&dir).await?;
            anna.dial(&format!("sip:bert@{B}")).await?;
            anna.event("CALL_ESTABLISHED", Duration::from_secs(5)).await?;
            tokio::time::sleep(SPEECH + Duration::from_secs(1)).await;
            assert!(anna.speaks(codec) && bert.speaks(codec), "they did not agree on {codec}");
            anna.hang_up().await?;
            bert.closed(Duration::from_secs(5)).await?;
            let heard_by_anna = pesq(Voice::Spanish, &anna.heard()?)?;
            let heard_by_bert = pesq(Voice::English, &bert.heard()?)?;
            println!("PESQ alone, {codec}: {heard_by_anna:.2} and {heard_by_bert:.2}");
            assert!(heard_by_anna >= 4.2 && heard_by_bert >= 4.2, "the phones alone are not clear");
            // The measure can fail: another voice is no match.
            let wrong = pesq(Voice::English, &anna.heard()?)?;
            assert!(wrong < 2.0, "PESQ {wrong} of a wrong reference");
        }
        Ok(())
    });
}

#[test]
fn sipp_calls_sipp() {
    run(async {
        let dir = tempfile::tempdir()?;
        let callee = Sipp::callee("uas", (B, 5060).into(), 100).start(dir.path())?;
        let mut caller = Sipp::caller("uac", (A, 5060).into(), (B, 5060).into(), "anyone", 100);
        caller.rate = 100;
        let caller = caller.start(dir.path())?.finish(Duration::from_secs(30)).await?;
        let callee = callee.finish(Duration::from_secs(30)).await?;
        assert_eq!((caller.successful, caller.failed, caller.unexpected), (100, 0, 0));
        assert_eq!((callee.successful, callee.failed, callee.unexpected), (100, 0, 0));
        assert_eq!(caller.response_ms.len(), 100, "response times were recorded");
        Ok(())
    });
}
