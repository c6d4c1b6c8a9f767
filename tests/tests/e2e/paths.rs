//! Upstreams that fail under calls: nobody is told, no call ends, and little or nothing is lost.

use std::time::Duration;

use chaos::wan::Profile;
use tests::upstreams::{Upstreams, WAY, direct, grown};

use crate::run;

const CALLS: usize = 20;

/// The upstream that carries the calls goes silent.
#[test]
fn calls_go_on_when_their_upstream_falls_silent() {
    run(async {
        let stage = Upstreams::start().await?;
        stage.call(CALLS).await?;
        let before = stage.paths("fra1").await?;
        stage.cut(&before["primary"])?;
        for pop in ["fra1", "sin1"] {
            let was = before["primary"].clone();
            stage.until(pop, "media moved", move |paths| paths["primary"] != was).await?;
        }
        // Connections on the dead paths end; the call streams are elsewhere by then.
        for pop in ["fra1", "sin1"] {
            stage
                .until(pop, "connections on dead paths ended", |paths| {
                    direct(paths).filter(|path| path["connected"] == false).count() == 3
                })
                .await?;
        }
        let reports = stage.hang_up(CALLS).await?;
        let mut gaps: Vec<Duration> = reports.iter().map(|r| r.heard.longest_gap).collect();
        gaps.sort();
        let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
        println!("longest gap of {} ears: p50 {median:?}, worst {worst:?}", gaps.len());
        // Far below what any timeout of a connection would cost; the benchmark measures.
        assert!(worst < Duration::from_secs(2), "{gaps:?}");
        Ok(())
    });
}

/// An operator asks what the paths are, why, and what they were, from anywhere.
#[test]
fn an_operator_is_told_which_path_and_why() {
    run(async {
        let stage = Upstreams::start().await?;
        stage.call(2).await?;
        let mesh = &stage.scene.mesh;
        let words = mesh.meshctl(&["path", "explain", "fra1", "sin1"]).await?;
        assert!(words.starts_with("Media for sin1 goes by path 0-0"), "{words}");
        assert!(words.contains("Path 1-1: good, round trip "), "{words}");
        stage.cut(&"0-0".into())?;
        stage.until("fra1", "media moved", |paths| paths["primary"] != "0-0").await?;
        let words = mesh.meshctl(&["path", "explain", "fra1", "sin1"]).await?;
        assert!(!words.starts_with("Media for sin1 goes by path 0-0"), "{words}");
        assert!(words.contains("went silent or its connection broke"), "{words}");
        let words = mesh.meshctl(&["path", "history", "fra1", "sin1"]).await?;
        assert!(words.starts_with("Changes, newest first:"), "{words}");
        // Looks are ten seconds apart, and the first was long ago.
        let words = mesh.meshctl(&["path", "history", "fra1", "sin1", "--ago", "1s"]).await?;
        assert!(words.contains(" s ago media for sin1 went by path "), "{words}");
        let list = mesh.meshctl(&["--output", "json", "path", "list"]).await?;
        let list: serde_json::Value = serde_json::from_str(&list)?;
        assert_eq!(list.as_array().map(Vec::len), Some(3), "{list}");
        let nobody = mesh.meshctl(&["path", "explain", "fra1", "nowhere"]).await.unwrap_err();
        assert!(nobody.to_string().contains("no path to a POP \"nowhere\""), "{nobody}");
        let nobody = mesh.meshctl(&["--timeout", "1", "path", "explain", "nowhere", "fra1"]);
        let nobody = nobody.await.unwrap_err().to_string();
        assert!(nobody.contains("hears no POP \"nowhere\""), "{nobody}");
        Ok(())
    });
}

/// Loss on the upstream in use is repaired by copies on the other one; carriers hear each packet once.
#[test]
fn loss_on_one_upstream_is_not_heard() {
    run(async {
        let stage = Upstreams::start().await?;
        stage.call(CALLS).await?;
        let lossy = Profile { loss: 0.05, ..Profile::delayed(WAY) };
        stage.wan()?.set_both("fra1", "sin1", lossy);
        for pop in ["fra1", "sin1"] {
            // Or media has left the path already: that is an answer, too.
            // A copy for a probe that was missed ends soon: one for loss is waited for.
            let answered =
                |paths: &serde_json::Value| paths["why"] == "loss" || paths["primary"] != "0-0";
            stage.until(pop, "loss is answered", answered).await?;
        }
        let before = stage.counts();
        tokio::time::sleep(Duration::from_secs(8)).await;
        let (received, lost) = grown(&before, &stage.counts());
        println!("with 5 % loss on the upstream in use: {lost} of {} lost", received + lost);
        // 40 ears, 50 packets a second.
        assert!(received > 12_000, "{received}: calls ended");
        assert!(lost * 1_000 <= (received + lost) * 3, "{lost} of {received}");
        let reports = stage.hang_up(CALLS).await?;
        assert!(reports.iter().all(|report| report.heard.duplicates == 0), "heard twice");
        Ok(())
    });
}
