//! What a real driver does not have: settings and reports for tests, as texts ([`crate::Config`], [`crate::Report`]).
use super::{Out, Text, driver_calls, put_text, set_visible, with_device};
use crate::{
    config::{Config, MOST_DEVICES},
    status::Status,
};
use std::ffi::c_char;

driver_calls! {
    /// How many devices programs see.
    fn ptx_sim_set_devices(count: u32) {
        let count = usize::try_from(count).ok().filter(|&n| n <= MOST_DEVICES).ok_or(Status::INVALID_VALUE)?;
        set_visible(count);
        Ok(())
    }

    /// Sets a device's configuration; launches that are queued run under the new one.
    fn ptx_sim_configure(device: u32, text: Text) {
        let text = text.get()?.to_str().map_err(|_| Status::INVALID_VALUE)?;
        with_device(device as usize, |d| {
            d.config = Config::from_text(text).map_err(|e| d.refuse(&e))?;
            Ok(())
        })
    }

    /// The length of the report that [`ptx_sim_take_report`] would give, with its zero byte.
    fn ptx_sim_report_size(device: u32, size: Out<usize>) {
        size.set(with_device(device as usize, |d| Ok(d.report.to_text().len() + 1))?)
    }

    /// Writes the report to a buffer and begins a new one.
    fn ptx_sim_take_report(device: u32, to: *mut c_char, size: usize) {
        with_device(device as usize, |d| {
            put_text(to, size, &d.report.to_text())?;
            let (live_bytes, peak_bytes) = (d.report.live_bytes, d.report.peak_bytes);
            d.report = crate::Report { live_bytes, peak_bytes, ..Default::default() };
            Ok(())
        })
    }
}
