"""Pure decisions shared by every part: no IO, no clock, no randomness, no logging, no asyncio."""
