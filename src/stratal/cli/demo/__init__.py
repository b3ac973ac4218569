"""``stratal demo``: from real data to an explained prediction, through public doors only."""

from stratal.cli.demo.command import demo

__all__ = ["demo"]
