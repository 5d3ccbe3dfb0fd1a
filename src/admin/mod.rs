//! What operators see: the log, the checks of the machine, numbers of the process, the metrics text, the page of the
//! cluster, and what the service manager is told.

pub mod doctor;
pub mod http;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod page;
pub mod process;

use crate::config::{Config, SetError};

/// Does what a change of the configuration asks of the process as a whole: the level of the log, and open files for
/// more clients. Cores see the rest by themselves. On an error nothing has changed.
pub fn apply(old: &Config, new: &Config) -> Result<(), SetError> {
    if new.maxclients > old.maxclients {
        let failed = |why| SetError::Failed { name: "maxclients".into(), why };
        let files = limits::raise_open_files(new.maxclients, new.cpus.len()).map_err(|e| failed(e.to_string()))?;
        if files.maxclients < new.maxclients {
            let room = files.maxclients;
            return Err(failed(format!(
                "The operating system is not able to handle the specified number of clients, try with {room}"
            )));
        }
    }
    logging::set_level(new.loglevel);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_beyond_the_open_files_are_refused() {
        let old = Config::default();
        let new = |maxclients| Config { maxclients, ..old.clone() };
        assert_eq!(apply(&old, &new(old.maxclients - 1)), Ok(()));
        // More than any kernel's fs.nr_open.
        let error = apply(&old, &new(u32::MAX as usize)).unwrap_err().to_string();
        assert!(error.starts_with("CONFIG SET failed (possibly related to argument 'maxclients') - "), "{error}");
        assert!(error.contains("try with "), "{error}");
    }
}
