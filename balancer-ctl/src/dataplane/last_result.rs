//! The result of work that is not done at each call, so that its error lasts until the work succeeds.

use anyhow::anyhow;

/// The last result of such work; at first it has succeeded.
#[derive(Debug, Default)]
pub struct LastResult(Option<String>);

impl LastResult {
    /// Stores a result.
    pub fn store<T>(&mut self, result: &anyhow::Result<T>) {
        self.0 = result.as_ref().err().map(|error| format!("{error:#}"));
    }

    /// The last result.
    ///
    /// # Errors
    /// The work failed when it was last done.
    pub fn get(&self) -> anyhow::Result<()> {
        match &self.0 {
            Some(error) => Err(anyhow!(error.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_lasts_until_the_work_succeeds() {
        let mut last = LastResult::default();
        let text = |last: &LastResult| last.get().map_err(|error| error.to_string());
        assert_eq!(text(&last), Ok(()));
        let refused: anyhow::Result<u32> = Err(anyhow!("no memory")).context("cannot list");
        last.store(&refused);
        for _ in 0..2 {
            assert_eq!(text(&last), Err("cannot list: no memory".to_owned()));
        }
        last.store(&Ok(1));
        assert_eq!(text(&last), Ok(()));
    }
}
