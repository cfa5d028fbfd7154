//! The root certificates that are trusted: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or the system's if neither is set. One that is
//! empty is not set.
//!
//! What a variable names and does not hold is told, also if the other one makes up for it: whoever set it expects those
//! authorities to be trusted. Only a regular file is read, because a pipe would never end.

use std::ffi::OsStr;
use std::path::Path;

use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use rustls_pki_types::CertificateDer;

const FILE: &str = "SSL_CERT_FILE";
const FOLDERS: &str = "SSL_CERT_DIR";

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// What was named and did no good, for the operator.
    pub(crate) problems: Vec<String>,
}

/// Loads them.
pub(crate) fn load() -> Found {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    match (set(FILE), set(FOLDERS)) {
        (None, None) => {
            let CertificateResult { certs, errors, .. } = of_the_system();
            // Nobody named those places: what is wrong with one of them matters only if nothing was found.
            let errors = if certs.is_empty() { errors } else { Vec::new() };
            Found { certificates: certs, problems: errors.iter().map(ToString::to_string).collect() }
        }
        (file, folders) => named(file.as_deref(), folders.as_deref()),
    }
}

fn of_the_system() -> CertificateResult {
    if std::env::var_os(FILE).is_none() {
        return load_native_certs();
    }
    // It is empty. The library would read a file without a name, and nothing else.
    let places = openssl_probe::probe();
    let mut found = load_certs_from_paths(places.cert_file.as_deref(), None);
    for folder in &places.cert_dir {
        let more = load_certs_from_paths(None, Some(folder));
        found.certs.extend(more.certs);
        found.errors.extend(more.errors);
    }
    found.certs.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    found.certs.dedup();
    found
}

fn named(file: Option<&OsStr>, folders: Option<&OsStr>) -> Found {
    let mut found = Found::default();
    if let Some(file) = file.map(Path::new) {
        match std::fs::metadata(file) {
            Ok(data) if data.is_file() => found.add(FILE, file, load_certs_from_paths(Some(file), None)),
            Ok(_) => found.fail(FILE, file, "it is not a regular file"),
            Err(error) => found.fail(FILE, file, &error.to_string()),
        }
    }
    let folders = folders.unwrap_or_default();
    for folder in std::env::split_paths(folders).filter(|folder| !folder.as_os_str().is_empty()) {
        found.add(FOLDERS, &folder, load_certs_from_paths(None, Some(&folder)));
    }
    found.certificates.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    found.certificates.dedup();
    found
}

impl Found {
    fn add(&mut self, variable: &str, path: &Path, loaded: CertificateResult) {
        match loaded.errors.first() {
            Some(error) => self.fail(variable, path, &error.to_string()),
            None if loaded.certs.is_empty() => self.fail(variable, path, "there is no certificate in it (PEM)"),
            None => {}
        }
        self.certificates.extend(loaded.certs);
    }

    fn fail(&mut self, variable: &str, path: &Path, problem: &str) {
        self.problems.push(format!("{variable} names {}: {problem}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_and_wrong_is_told_also_if_the_other_variable_makes_up_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert.pem();
        std::fs::write(folder.path().join("root.pem"), certificate).unwrap();
        let empty = folder.path().join("empty.txt");
        std::fs::write(&empty, "nothing").unwrap();
        let folders = Some(folder.path().as_os_str());
        for (file, problem) in [
            (folder.path().join("absent"), "No such file"),
            (empty, "no certificate"),
            (folder.path().into(), "not a regular file"),
        ] {
            let found = named(Some(file.as_os_str()), folders);
            assert_eq!(found.certificates.len(), 1);
            assert!(found.problems.len() == 1 && found.problems[0].contains(problem), "{:?}", found.problems);
            assert!(found.problems[0].starts_with("SSL_CERT_FILE names"), "{:?}", found.problems);
        }
        let right = named(Some(folder.path().join("root.pem").as_os_str()), folders);
        assert!(right.certificates.len() == 1 && right.problems.is_empty(), "{:?}", right.problems);
    }
}
