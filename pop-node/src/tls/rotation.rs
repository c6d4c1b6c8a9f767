//! Certificates that change while the POP runs: files are read again when they changed, and on
//! SIGHUP; a certificate of two thirds of its age is renewed.
//!
//! New links and connections use what was read last, open ones stay: no call notices. What cannot
//! be used is refused with the reason and the old stays. Renewal writes one file with key and
//! certificate, so that the two never disagree; with two files it is left to who wrote them.

use std::time::SystemTime;

use enroll::files::{self, Seen};
use enroll::renew::{Validity, keep_fresh};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::Credentials;
use crate::config::Config;
use crate::link::Links;
use crate::telemetry;

/// Follows the files and the clock, for ever. `nodes` are asked for renewals.
pub async fn run(config: Config, credentials: Credentials, links: Links, nodes: Vec<Channel>) {
    let tls = &config.tls;
    let seen = Seen::new(vec![tls.ca.clone(), tls.cert.clone(), tls.key.clone()]);
    let one_file = (tls.cert == tls.key).then_some(tls.cert.as_path());
    let (validity, aging) = watch::channel(credentials.validity());
    let reload = || match reload(&config, &credentials, &links) {
        Ok(now_valid) => {
            let days_left = now_valid.left(SystemTime::now()) / 86_400;
            tracing::info!(days_left, "new certificate files are in use");
            validity.send_replace(now_valid);
        }
        Err(why) => {
            tracing::error!("changed certificate files are not used, the old stay: {why}");
        }
    };
    let show = |seconds: i64| telemetry::CERTIFICATE_LEFT.set(seconds as f64);
    tokio::select! {
        ended = files::watch(seen, reload) => {
            if let Err(error) = ended {
                tracing::error!(%error, "certificate files are not watched: restart to rotate");
            }
        }
        () = keep_fresh(aging, one_file, || nodes.clone(), show) => {}
    }
}

/// Reads the files; they are used from now on, or nothing changes.
fn reload(config: &Config, used: &Credentials, links: &Links) -> Result<Validity, String> {
    let newer = Credentials::load(config, SystemTime::now()).map_err(|e| e.to_string())?;
    links.rotate(&newer).map_err(|error| error.to_string())?;
    used.adopt(&newer);
    Ok(newer.validity())
}
