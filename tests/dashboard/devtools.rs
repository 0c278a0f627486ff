//! A real browser, driven over its `DevTools` pipe: messages of JSON, each ended by a zero byte, on file descriptors 3 and 4, which a shell
//! opens for it. `PACKHORSE_BROWSER=FILE` names one that is not in `PATH`, `PACKHORSE_REQUIRE_BROWSER=1` makes its absence a failure.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// One browser at a time: it takes more memory than everything else in these tests.
static ONE: Mutex<()> = Mutex::new(());

/// A running browser with one page.
pub(crate) struct Browser {
    child: Child,
    input: File,
    output: Receiver<Value>,
    number: u64,
    session: Option<String>,
    /// What the page or its policy complained about.
    complaints: Vec<String>,
    _home: TempDir,
    _one: MutexGuard<'static, ()>,
}

/// How the page is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// `light` or `dark`.
    pub(crate) scheme: &'static str,
    pub(crate) phone: bool,
}

pub(crate) const DESK: Window = Window { width: 1360, height: 900, scheme: "light", phone: false };

fn found() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PACKHORSE_BROWSER") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name))).find(|file| file.is_file())
}

impl Browser {
    /// Starts one; `None`, having said so, where there is none.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = found() else {
            let required = std::env::var_os("PACKHORSE_REQUIRE_BROWSER").is_some_and(|value| value != "0");
            assert!(!required, "PACKHORSE_REQUIRE_BROWSER is set, and there is no browser: apt-get install chromium");
            let test = std::thread::current().name().unwrap_or("test").to_owned();
            // Past the test runner, which shows the output of a passing test to nobody.
            let line = format!("SKIPPED {test}: no browser was tested: chromium is not installed\n");
            std::io::stderr().lock().write_all(line.as_bytes()).unwrap();
            return None;
        };
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let home = tempfile::tempdir().unwrap();
        let (to, from) = (home.path().join("to"), home.path().join("from"));
        let made = Command::new("mkfifo").args([&to, &from]).status().unwrap();
        assert!(made.success());
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<\"$TO\" 4>\"$FROM\""])
            .arg(program)
            .args(["--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"])
            .args([
                "--disable-dev-shm-usage",
                "--disable-extensions",
                "--disable-background-networking",
                "--hide-scrollbars",
            ])
            .args(["--force-color-profile=srgb", "--lang=en-US"])
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .arg("about:blank")
            .env("TO", &to)
            .env("FROM", &from)
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(home.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        // In the shell's order; each waits for the other end.
        let input = File::options().write(true).open(&to).unwrap();
        let output = read(&from);
        let mut browser =
            Self { child, input, output, number: 0, session: None, complaints: Vec::new(), _home: home, _one: one };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &attach)["sessionId"].as_str().unwrap().to_owned();
        browser.session = Some(session);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Calls a method and gives its result.
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.number += 1;
        let number = self.number;
        let mut message = json!({"id": number, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).unwrap();
        loop {
            let answer = match self.output.recv_timeout(PATIENCE) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => panic!("{method}: no answer"),
                Err(RecvTimeoutError::Disconnected) => panic!("{method}: the browser has ended"),
            };
            self.complain(&answer);
            if answer["id"] == number {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    fn complain(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) => {
                self.complaints.push(params["entry"].to_string());
            }
            _ => {}
        }
    }

    /// Shows a page in a window.
    pub(crate) fn open(&mut self, url: &str, window: Window) {
        let Window { width, height, scheme, phone } = window;
        let scale = if phone { 2 } else { 1 };
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
        self.media(scheme, "no-preference");
        self.call("Page.navigate", &json!({"url": url}));
        self.wait("the page", "document.readyState === 'complete'");
    }

    /// What the reader's system prefers.
    pub(crate) fn media(&mut self, scheme: &str, motion: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]);
        self.call("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// What an expression gives.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let result = self
            .call("Runtime.evaluate", &json!({"expression": expression, "returnByValue": true, "awaitPromise": true}));
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression holds.
    pub(crate) fn wait(&mut self, what: &str, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(&format!("Boolean({expression})")) != true {
            if Instant::now() > deadline {
                let text = self.eval("document.body.innerText");
                panic!("never so: {what} ({expression}); complaints {:?}; the page says {text}", self.complaints);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Presses a key: a character, or a name such as `Enter`, `Escape`, `ArrowDown`, `Tab`.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "Tab" => (9, ""),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            character => (0, character),
        };
        let event = |kind: &str| json!({"type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text, "unmodifiedText": text});
        let down = event(if text.is_empty() { "rawKeyDown" } else { "keyDown" });
        self.call("Input.dispatchKeyEvent", &down);
        self.call("Input.dispatchKeyEvent", &json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code}));
    }

    /// Types into what has the focus.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// A picture of the window, as PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }

    /// What the page or its policy complained about since the last time.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        self.eval("0");
        std::mem::take(&mut self.complaints)
    }
}

/// Keeps a picture for the documentation, where that is wanted.
pub(crate) fn keep(name: &str, picture: &[u8]) {
    assert!(picture.len() < 200_000, "{name} has {} bytes", picture.len());
    if std::env::var_os("PACKHORSE_SCREENSHOTS").is_some() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images");
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(format!("{folder}/{name}.png"), picture).unwrap();
    }
}

fn read(pipe: &Path) -> Receiver<Value> {
    let (sender, receiver) = channel();
    let file = File::open(pipe).unwrap();
    std::thread::spawn(move || {
        let messages = BufReader::new(file).split(0).map_while(Result::ok);
        for message in messages {
            let sent = sender.send(serde_json::from_slice(&message).unwrap_or(Value::Null));
            if sent.is_err() {
                return;
            }
        }
    });
    receiver
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
