//! The hypervisor's image: built by a cargo invocation of its own, since it is a workspace of its own.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The profile it is built in.
const PROFILE: &str = "release";

/// The checkout that this program was built from, or that cargo runs it in.
pub fn checkout() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = |package: &Path| {
        let root = package.ancestors().nth(2)?.to_owned();
        root.join("qemu-intel-iommu/Cargo.toml").is_file().then_some(root)
    };
    root(Path::new(&package)).unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
}

/// Where the files go that QEMU reads.
pub fn boot_folder() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder).join("boot"),
        _ => checkout().join("target/boot"),
    }
}

/// An image that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cargo does not start.
    #[error("cannot start {}: {source}", program.display())]
    NoCargo {
        /// What was started.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Cargo ends with an error, which it has shown itself or which is here.
    #[error("the image does not build{}", if messages.is_empty() { String::new() } else { format!(":\n{messages}") })]
    Build {
        /// What cargo says.
        messages: String,
    },
    /// Cargo says nothing of an executable.
    #[error("cargo built the image and named no executable")]
    Nowhere,
}

/// Whether cargo's own messages are shown as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// On our standard error.
    Shown,
    /// In the error, if there is one.
    Kept,
}

/// Builds the image unless it is there and fresh, and says where it is.
///
/// # Errors
/// When it does not build.
pub fn build(messages: Messages) -> Result<PathBuf, Error> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(&cargo);
    command
        .args(["build", "--quiet", "--message-format=json-render-diagnostics", "--profile", PROFILE])
        .arg("--manifest-path")
        .arg(checkout().join("qemu-intel-iommu/Cargo.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(if messages == Messages::Shown { Stdio::inherit() } else { Stdio::piped() });
    crate::process::die_with_parent(&mut command);
    let output = command
        .spawn()
        .and_then(|child| child.wait_with_output())
        .map_err(|source| Error::NoCargo { program: cargo.into(), source })?;
    if !output.status.success() {
        return Err(Error::Build { messages: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
    }
    executable(&String::from_utf8_lossy(&output.stdout)).ok_or(Error::Nowhere)
}

/// The executable that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_holds_the_image() {
        assert!(checkout().join("qemu-intel-iommu").is_dir());
    }

    #[test]
    fn cargos_messages_name_the_executable() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"core"},"executable":null}
not json
{"reason":"compiler-artifact","executable":"/t/release/image"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/t/release/image".into()));
        assert_eq!(executable(""), None);
    }
}
