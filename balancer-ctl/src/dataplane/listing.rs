//! Lists that are read later, in any thread, while the data plane goes on.

use std::ops::ControlFlow;

use super::DataplaneError;

/// Who is given one item after the other, until it breaks.
pub type Take<'a, T> = &'a mut dyn FnMut(T) -> ControlFlow<()>;

type Read<T> = Box<dyn FnOnce(Take<'_, T>) -> Result<(), DataplaneError> + Send>;

/// A list that is still to be read.
pub struct Listing<T>(Read<T>);

impl<T: 'static> Listing<T> {
    /// A list that `read` produces.
    pub fn new(
        read: impl FnOnce(Take<'_, T>) -> Result<(), DataplaneError> + Send + 'static,
    ) -> Self {
        Self(Box::new(read))
    }

    /// The list with each item converted.
    #[must_use]
    pub fn map<U: 'static>(self, convert: impl Fn(T) -> U + Send + 'static) -> Listing<U> {
        Listing::new(move |take| self.each(|item| take(convert(item))))
    }

    /// Calls `take` for each item, until it breaks.
    ///
    /// # Errors
    /// The kernel refused a call; the list is not complete.
    pub fn each(self, mut take: impl FnMut(T) -> ControlFlow<()>) -> Result<(), DataplaneError> {
        (self.0)(&mut take)
    }

    /// Collects all items.
    ///
    /// # Errors
    /// As for [`Listing::each`].
    pub fn all(self) -> Result<Vec<T>, DataplaneError> {
        let mut all = Vec::new();
        self.each(|item| {
            all.push(item);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }
}

impl<T> std::fmt::Debug for Listing<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").finish_non_exhaustive()
    }
}
