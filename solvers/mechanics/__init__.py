"""The structured fast path for points under templates."""
