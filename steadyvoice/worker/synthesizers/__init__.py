"""Text to speech. Each module is one engine behind `steadyvoice.worker.registry.Model`; items are `SynthesizeItem`s."""
