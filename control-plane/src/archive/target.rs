//! Where backups and archives go: a directory, or a bucket of an object store.

use std::fmt;
use std::path::PathBuf;

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Absolute.
    Directory(PathBuf),
    /// S3, or what speaks it.
    Bucket {
        /// Its name.
        bucket: String,
        /// Names of all objects begin with it and a slash; may be empty.
        prefix: String,
    },
}

impl Target {
    /// As it is written; why it names no place.
    pub fn parse(target: &str) -> Result<Self, String> {
        let path = match target.split_once("://") {
            None => target,
            Some(("file", path)) => path,
            Some(("s3", rest)) => return bucket(rest),
            Some((scheme, _)) => {
                return Err(format!("is of {scheme}, which this version does not know"));
            }
        };
        let path = PathBuf::from(path);
        if path.is_absolute() {
            Ok(Self::Directory(path))
        } else {
            Err(format!("\"{target}\" is not absolute"))
        }
    }
}

fn bucket(rest: &str) -> Result<Target, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let sound = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if bucket.is_empty() || !bucket.chars().all(sound) {
        return Err(format!("\"s3://{rest}\" names no bucket"));
    }
    let parts = || prefix.split('/');
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(sound);
    if !prefix.is_empty() && !parts().all(is_part) {
        return Err(format!("\"s3://{rest}\" has a prefix with other than letters, digits, -._"));
    }
    Ok(Target::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_directories_and_buckets() {
        let directory = |path: &str| Ok(Target::Directory(PathBuf::from(path)));
        assert_eq!(Target::parse("/backup"), directory("/backup"));
        assert_eq!(Target::parse("file:///backup/a"), directory("/backup/a"));
        for (text, bucket, prefix) in
            [("s3://b", "b", ""), ("s3://b-1/", "b-1", ""), ("s3://b/x/y.z/", "b", "x/y.z")]
        {
            let found = Target::parse(text).unwrap();
            let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
            assert_eq!(found, Target::Bucket { bucket, prefix });
            assert_eq!(found.to_string(), text.trim_end_matches('/'));
        }
        let bad =
            ["gs://b/a", "backup", "file://b", "", "s3://", "s3:///a", "s3://b//a", "s3://b/.."];
        bad.iter().for_each(|bad| assert!(Target::parse(bad).is_err(), "{bad}"));
    }
}
