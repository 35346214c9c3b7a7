"""What the Streamlit pages share: maps, charts, cached loading."""
