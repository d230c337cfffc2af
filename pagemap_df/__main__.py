"""``python -m pagemap_df`` is the command ``pagemap-df``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="pagemap-df")
