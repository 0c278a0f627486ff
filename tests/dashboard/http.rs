//! One GET at a time, and events as they come.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Response, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer with its body unread.
pub(super) async fn ask(address: SocketAddr, path: &str) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header(header::HOST, "localhost").body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

/// Status and text.
pub(super) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = ask(address, path).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// A look that must be answered.
pub(super) async fn look(address: SocketAddr, query: &str) -> Value {
    let (status, text) = get(address, &format!("/api/v1/cluster{query}")).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// An open feed.
pub(super) struct Events {
    body: Incoming,
    read: String,
}

impl Events {
    pub(super) async fn open(address: SocketAddr, query: &str) -> Self {
        let answer = ask(address, &format!("/api/v1/events{query}")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { body: answer.into_body(), read: String::new() }
    }

    /// The next look; `None` where the feed has ended.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let of = |field: &str| {
                    event.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().to_owned()
                };
                let (name, data) = (of("event: "), of("data: "));
                self.read = rest.to_owned();
                if name == "look" {
                    return Some(serde_json::from_str(&data).unwrap());
                }
                continue;
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("the feed says nothing")?;
            let data = frame.unwrap().into_data().unwrap_or_default();
            self.read.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// The next look for which this holds.
    pub(super) async fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let waited = timeout(PATIENCE, async {
            loop {
                let look = self.next().await.expect("the feed goes on");
                if holds(&look) {
                    return look;
                }
            }
        });
        waited.await.unwrap_or_else(|_| panic!("the feed never told: {what}"))
    }
}
