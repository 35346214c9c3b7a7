"""The parts of the Streamlit pages."""
