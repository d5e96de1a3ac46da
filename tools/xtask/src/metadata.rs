//! What cargo knows of the workspace: packages, features, tests and the stated oldest Rust.

use std::collections::BTreeMap;
use std::process::Stdio;

use serde::Deserialize;

use crate::cargo;

/// The workspace, or what of it is used here.
#[derive(Deserialize)]
pub(crate) struct Workspace {
    packages: Vec<Package>,
}

/// A package of ours.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// What each switches on besides is of no interest here.
    features: BTreeMap<String, Vec<String>>,
    /// The oldest that it is said to build with.
    pub(crate) rust_version: Option<String>,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self, String> {
        let mut command = cargo();
        command.args(["metadata", "--format-version", "1", "--no-deps"]).stderr(Stdio::inherit());
        let output = command.output().map_err(|error| format!("cannot start cargo: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata failed ({})", output.status));
        }
        Self::parse(&output.stdout)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| format!("cargo metadata cannot be read: {error}"))
    }

    /// The package of this name.
    pub(crate) fn package(&self, name: &str) -> Result<&Package, String> {
        let mut packages = self.packages.iter();
        packages.find(|package| package.name == name).ok_or_else(|| format!("there is no package {name}"))
    }
}

/// Beyond so many features of a package there are too many combinations to try.
const FEATURES: usize = 6;

impl Package {
    /// Every combination of its features, as `--features` takes it; none is the first.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn combinations(&self) -> Result<Vec<String>, String> {
        if self.features.len() > FEATURES {
            let count = self.features.len();
            return Err(format!("{} has {count} features; all combinations are too many to try", self.name));
        }
        let mut all = vec![Vec::new()];
        for feature in self.features.keys() {
            let with = all.clone().into_iter().map(|mut some| {
                some.push(feature.as_str());
                some
            });
            all.extend(with.collect::<Vec<_>>());
        }
        Ok(all.iter().map(|some| some.join(",")).collect())
    }
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TEXT: &str = r#"{"packages": [
        {"name": "bread", "features": {}, "rust_version": "1.88", "targets": []},
        {"name": "toast", "features": {"butter": [], "jam": ["dep:fruit"], "default": ["jam"]}, "rust_version": null}
    ]}"#;

    #[test]
    fn all_combinations_of_features_are_there() {
        let workspace = Workspace::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(workspace.package("bread").unwrap().combinations().unwrap(), [""]);
        assert_eq!(
            workspace.package("toast").unwrap().combinations().unwrap(),
            [
                "",
                "butter",
                "default",
                "butter,default",
                "jam",
                "butter,jam",
                "default,jam",
                "butter,default,jam"
            ]
        );
        assert_eq!(workspace.package("bread").unwrap().rust_version.as_deref(), Some("1.88"));
        assert!(workspace.package("cake").err().unwrap().contains("no package cake"));
    }

    #[test]
    fn too_many_are_refused() {
        let features: Vec<String> = (0..7).map(|number| format!("\"f{number}\": []")).collect();
        let text =
            format!(r#"{{"packages": [{{"name": "much", "features": {{{}}}}}]}}"#, features.join(", "));
        let workspace = Workspace::parse(text.as_bytes()).unwrap();
        assert!(workspace.package("much").unwrap().combinations().unwrap_err().contains("7 features"));
        assert!(Workspace::parse(b"{").is_err());
    }
}
